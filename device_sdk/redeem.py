"""A device's first start with a token: it makes its keys, and gets certificates for them.

Nothing secret leaves the device, and nothing secret is carried to it but the token, which is worth
nothing once it is redeemed. Keys are on disk before anybody hears of them: a device that loses
power asks again with the same ones.
"""

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nacl.utils

from device_sdk.identity import Keys, keys_text
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import identity_public
from protocol.joining import (
    NEWCOMER,
    OPERATOR,
    Reply,
    Request,
    ask,
    open_reply,
    private_pem,
    tls_public,
)
from protocol.messages import KEY_BYTES
from protocol.secagg import keys as epoch_keys
from protocol.topics import Topics, check_id
from transport import BrokerSettings, Disconnected, Message, Refused
from transport.loop import Loop
from transport.paho import PahoTransport
from transport.secret_files import read_secret_file
from transport.settings import Tls

#: How long until it asks again.
AGAIN_S: Final = 3.0
_SECRETS: Final = ("identity", "tls", "epoch_secret")
_TEXTS: Final = ("task", "prefix", "device", "host", "password", "token", "ca", "settings")
_FIELDS: Final = {*_TEXTS, "port", "cohort", "epoch"}


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """What an operator carries to a device. ``settings`` is the text of its device.toml."""

    task: str
    prefix: str
    device: str
    host: str
    port: int
    password: str
    token: bytes
    ca: str
    settings: str
    cohort: str = ""
    epoch: int = 0


def token_text(token: Token) -> str:
    """Return the text of a token's file: what `read_token` reads."""
    table = {name: getattr(token, name) for name in _FIELDS}
    return json.dumps({**table, "token": token.token.hex()}, indent=1) + "\n"


def read_token(path: Path) -> Token:
    """Read a token's file, of mode 0600. Raises ConfigError that shows nothing of it."""
    text = read_secret_file(path)
    try:
        return parse_token(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_token(text: str) -> Token:
    """Return what `token_text` wrote. Raises ConfigError that shows nothing of it."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("not a token of `fedbus enrol --token`") from None
    if not isinstance(table, dict) or table.keys() != _FIELDS or not _are_right(table):
        raise ConfigError("not a token of `fedbus enrol --token`")
    check_id(table["device"], "device")
    return Token(**{**table, "token": bytes.fromhex(table["token"])})


def _are_right(table: Mapping[str, Any]) -> bool:
    texts = all(isinstance(table[name], str) for name in (*_TEXTS, "cohort"))
    numbers = all(type(table[name]) is int for name in ("port", "epoch"))
    return texts and numbers and _is_key(table["token"])


def redeem(path: Path, folder: Path, deadline_s: float) -> Path:
    """Redeem the token in ``path``: keys, certificates and settings are in ``folder`` then.

    Returns the settings' path. The token's file is deleted: it is worth nothing any more. Raises
    ConfigError for what will not do, and if no answer came in time; it can be called again.
    """
    token = read_token(path)
    settings = folder / "device.toml"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets = _own_secrets(folder / "joining.json")
        _write(folder / "ca.crt", token.ca.encode())
        reply = _ask_until_answered(token, secrets, folder / "ca.crt", deadline_s)
        _write(folder / "keys.json", keys_text(_keys(token, secrets, reply)).encode())
        _write(folder / "device.crt", reply.tls_certificate)
        _write(folder / "device.key", private_pem(secrets["tls"]))
        _write(settings, token.settings.encode())
        (folder / "joining.json").unlink()
        path.unlink()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return settings


def request_of(token: Token, secrets: Mapping[str, bytes]) -> bytes:
    """Return what the device asks."""
    epoch_key = endorsement = b""
    if token.cohort:
        epoch_key = epoch_keys.epoch_public(secrets["epoch_secret"])
        text = epoch_keys.endorsed(token.task, token.epoch, epoch_key)
        endorsement = epoch_keys.sign(secrets["identity"], epoch_keys.EPOCH_KEY, text)
    request = Request(
        token.task,
        token.device,
        identity_public(secrets["identity"]),
        tls_public(secrets["tls"]),
        token.epoch,
        epoch_key,
        endorsement,
    )
    return ask(request, secrets["identity"], token.token)


def _keys(token: Token, secrets: Mapping[str, bytes], reply: Reply) -> Keys:
    return Keys(
        task=token.task,
        device=token.device,
        cohort=token.cohort,
        identity=secrets["identity"],
        epochs={token.epoch: secrets["epoch_secret"]} if token.cohort else {},
        enrolment=reply.enrolment,
        aggregator=reply.aggregator,
        certificate=reply.certificate,
    )


def _own_secrets(path: Path) -> dict[str, bytes]:
    """Return the keys made at the first try; make them if this is it."""
    if not path.exists():
        fresh = {name: nacl.utils.random(KEY_BYTES).hex() for name in _SECRETS}
        _write(path, json.dumps(fresh).encode())
    text = read_secret_file(path)
    try:
        table = json.loads(text)
        return {name: bytes.fromhex(table[name]) for name in _SECRETS}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: damaged; delete it, and have a new token made") from None


def _ask_until_answered(
    token: Token, secrets: Mapping[str, bytes], ca: Path, deadline_s: float
) -> Reply:
    topics, account = Topics(token.prefix, token.task), f"{NEWCOMER}{token.device}"
    settings = BrokerSettings(
        host=token.host,
        port=token.port,
        client_id=account,
        username=account,
        password=token.password,
        clean_start=True,
        backoff_first_s=1.0,
        backoff_cap_s=20.0,
        connect_timeout_s=20.0,
        tls=Tls(ca=ca) if token.ca else None,
    )
    transport, loop = PahoTransport(settings, random=random.SystemRandom().random), Loop()
    loop.add(transport)
    transport.subscribe((topics.share(account, OPERATOR),))
    transport.connect()
    request, problem = request_of(token, secrets), "the broker does not answer"
    again_at, until = 0.0, time.monotonic() + deadline_s
    try:
        while (now := time.monotonic()) < until:
            if transport.connected and now >= again_at:
                again_at = now + AGAIN_S
                problem = "nobody answers: does `fedbus enrol redeem` run?"
                transport.publish(topics.share(OPERATOR, account), request)
            for _, events in loop.wait(min(AGAIN_S, until - now)):
                for event in events:
                    if isinstance(event, Refused | Disconnected):
                        problem = event.reason
                    if isinstance(event, Message):
                        transport.acknowledge(event)
                        if (reply := _reply(event, token, secrets)) is not None:
                            return reply
    finally:
        loop.remove(transport)
        transport.close(timeout_s=0.5)
        loop.close()
    raise ConfigError(f"not redeemed after {deadline_s:g} s: {problem}")


def _reply(message: Message, token: Token, secrets: Mapping[str, bytes]) -> Reply | None:
    """Return an answer that is the operator's; None for anything else. Raises ConfigError."""
    try:
        reply = open_reply(message.payload, token.token, secrets["identity"])
    except RemoteProtocolError:
        return None
    if reply.problem:
        raise ConfigError(f"the operator's machine says: {reply.problem}")
    return reply


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, readable by its owner only at any time."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _is_key(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == KEY_BYTES
    except ValueError:
        return False
