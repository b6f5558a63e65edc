"""One-time tokens: a device makes its own keys, and the operator's machine certifies them.

``enrolment/tokens/<id>.json`` has the secret of a token, and who redeemed it. Until then an account
``join-<id>`` at the broker lets its device ask: it writes and reads shares as itself
(`protocol.topics.Role.NEWCOMER`), and so nothing that the aggregator listens to.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import nacl.utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker_config.authority import Authority
from broker_config.mosquitto import SALT_BYTES, confinement, password_entry
from broker_config.newcomers import accounts_of_tokens, admit, dismiss
from broker_config.private_files import replace as replace_file
from device_sdk.redeem import Token
from fedbus.enrolment import (
    AGGREGATOR_PUBLIC,
    ENROLMENT_PUBLIC,
    issue,
    newest_roster,
)
from fedbus.key_files import read_key
from fedbus.known import TOKENS, WAITING
from fedbus.waiting import lay_down
from fedbus.workplace import Workplace
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.joining import (
    NEWCOMER,
    TOKEN_BYTES,
    Reply,
    Request,
    answer,
    asked_for,
    open_request,
)
from protocol.messages import KEY_BYTES
from protocol.secagg import keys
from protocol.secagg.roster import RosterMember
from transport.secret_files import read_secret_file

#: How long an account of a token that was redeemed stays, so that a lost answer can be said again.
LINGER_S: Final = 600.0
_PASSWORD_BYTES: Final = 24


@dataclass(frozen=True, slots=True, repr=False)
class Kept:
    """What the operator's machine knows of a token. ``identity``: who has redeemed it, and when."""

    device: str
    task: str
    token: bytes
    until: float
    cohort: str = ""
    epoch: int = 0
    identity: bytes = b""
    redeemed_at: float = 0.0
    reply: bytes = b""

    @property
    def over_at(self) -> float:
        """When its account has no use any more: POSIX time."""
        return min(self.until, self.redeemed_at + LINGER_S) if self.identity else self.until


def make(
    place: Workplace,
    token: Token,
    *,
    valid_s: float,
    now: Callable[[], float] = time.time,
) -> Token:
    """Return a token with its secrets drawn; it is kept, and the broker here knows its account.

    Raises ConfigError for a device that has one already, or that has redeemed one.
    """
    path = _path(place, token.device)
    if path.exists() and _read(path).identity:
        raise ConfigError(f"{token.device} has redeemed a token: take another name for another one")
    drawn = replace(
        token,
        token=nacl.utils.random(TOKEN_BYTES),
        password=nacl.utils.random(_PASSWORD_BYTES).hex(),
    )
    kept = Kept(
        token.device,
        token.task,
        drawn.token,
        now() + valid_s,
        cohort=token.cohort,
        epoch=token.epoch,
    )
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _write(place, kept)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    if place.broker.is_dir():
        admit(place.broker, f"{NEWCOMER}{token.device}", entry_of(drawn))
    return drawn


def entry_of(token: Token) -> str:
    """Return the line that a broker elsewhere needs in its ``passwords``."""
    salt = nacl.utils.random(SALT_BYTES)
    return password_entry(f"{NEWCOMER}{token.device}", token.password, salt)


def rules_of(token: Token) -> str:
    """Return the lines that a mosquitto elsewhere needs in its ``acl``."""
    return confinement(f"{NEWCOMER}{token.device}", token.prefix)


class Desk:
    """Answers requests. Everything is on disk before an answer leaves: it can be said again."""

    def __init__(self, place: Workplace, now: Callable[[], float] = time.time) -> None:
        self._place = place
        self._now = now

    @property
    def outstanding(self) -> list[str]:
        """The devices whose tokens can still be redeemed."""
        now = self._now()
        return [
            kept.device for kept in _sound(self._place) if not kept.identity and kept.until > now
        ]

    @property
    def accounts(self) -> dict[str, float]:
        """The devices whose token's account the broker here lets in, and until when (POSIX)."""
        open_ = accounts_of_tokens(self._place.broker)
        kept = (each for each in _sound(self._place) if f"{NEWCOMER}{each.device}" in open_)
        return {each.device: each.over_at for each in kept}

    @property
    def damaged(self) -> list[str]:
        """What is wrong with files of tokens that cannot be read: nobody can redeem these."""
        return [problem for _, problem in _all(self._place) if problem]

    def asked(self, account: str, data: bytes) -> bytes:
        """Return the answer to what an account asks.

        Raises RemoteProtocolError for what is no request of this account's token, and ConfigError
        if files are missing or cannot be written.
        """
        device = asked_for(data)
        path = _path(self._place, device)
        if account != f"{NEWCOMER}{device}" or not path.exists():
            raise RemoteProtocolError("malformed", f"{account}: no token of {device}")
        kept = _read(path)
        request = open_request(data, kept.token)
        if kept.identity == request.identity:
            return kept.reply
        if problem := self._problem(kept, request):
            return answer(replace(self._reply(request), problem=problem), kept.token)
        return self._certify(kept, request)

    def tidy(self) -> None:
        """Take away the accounts of tokens that are redeemed or over, and their files here.

        Who asks again because an answer got lost needs both, and is given `LINGER_S`. Raises
        ConfigError.
        """
        now = self._now()
        over = [kept.device for kept in _sound(self._place) if kept.over_at < now]
        for device in over:
            with suppress(OSError):  # not there any more, or stays: it is worth nothing
                self._place.token(device).unlink()
        dismiss(self._place.broker, {f"{NEWCOMER}{device}" for device in over})

    def _problem(self, kept: Kept, request: Request) -> str:
        """Return why a sound request gets no certificate; empty if it does."""
        if kept.identity:
            return "the token was redeemed by another identity: have a new one made"
        if kept.until < self._now():
            return "the token is over: have a new one made"
        if (request.task, request.epoch) != (kept.task, kept.epoch):
            return "asked for another task or epoch than the token's"
        if not kept.cohort:
            return ""
        epoch = newest_roster(self._place.enrolment, kept.cohort).epoch + 1
        if epoch != kept.epoch:
            return f"epoch {kept.epoch} has begun without it: have a token for {epoch} made"
        try:
            text = keys.endorsed(kept.task, epoch, request.epoch_key)
            keys.check_signature(request.identity, keys.EPOCH_KEY, text, request.endorsement)
            keys.check_epoch_key(request.epoch_key)
        except RemoteProtocolError:
            return "its epoch key is not endorsed by its identity"
        return ""

    def _certify(self, kept: Kept, request: Request) -> bytes:
        place, device = self._place, kept.device
        if kept.cohort:
            member = RosterMember(device, request.identity, request.epoch_key, request.endorsement)
            (place.enrolment / WAITING / kept.cohort / f"{device}.json").unlink(missing_ok=True)
            lay_down(place.enrolment / WAITING / kept.cohort, [member])
        reply = replace(
            self._reply(request),
            certificate=issue(place.enrolment, kept.task, device, request.identity),
            tls_certificate=Authority.open(place.ca).certify(
                device, Ed25519PublicKey.from_public_bytes(request.tls)
            ),
        )
        said = answer(reply, kept.token)
        done = replace(kept, identity=request.identity, redeemed_at=self._now(), reply=said)
        _write(place, done)
        return said

    def _reply(self, request: Request) -> Reply:
        enrolment = self._place.enrolment
        return Reply(
            identity=request.identity,
            certificate=b"",
            tls_certificate=b"",
            enrolment=read_key(enrolment / ENROLMENT_PUBLIC),
            aggregator=read_key(enrolment / AGGREGATOR_PUBLIC),
            problem="",
        )


def _path(place: Workplace, device: str) -> Path:
    return place.enrolment / TOKENS / f"{device}.json"


def _all(place: Workplace) -> Iterator[tuple[Kept | None, str]]:
    """Yield every token that is kept, or what is wrong with its file."""
    for path in sorted((place.enrolment / TOKENS).glob("*.json")):
        try:
            yield _read(path), ""
        except ConfigError as error:
            yield None, str(error)


def _sound(place: Workplace) -> list[Kept]:
    return [kept for kept, _ in _all(place) if kept is not None]


def _write(place: Workplace, kept: Kept) -> None:
    table = {
        "device": kept.device,
        "task": kept.task,
        "token": kept.token.hex(),
        "until": kept.until,
        "cohort": kept.cohort,
        "epoch": kept.epoch,
        "identity": kept.identity.hex(),
        "redeemed_at": kept.redeemed_at,
        "reply": kept.reply.hex(),
    }
    replace_file(_path(place, kept.device), json.dumps(table, indent=1).encode())


def _read(path: Path) -> Kept:
    text = read_secret_file(path)
    try:
        table = json.loads(text)
        secret = {name: bytes.fromhex(table[name]) for name in ("token", "identity", "reply")}
        kept = Kept(**{**table, **secret})
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: damaged; delete it, and make a new token") from None
    if len(kept.token) != KEY_BYTES:
        raise ConfigError(f"{path}: damaged; delete it, and make a new token")
    return kept
