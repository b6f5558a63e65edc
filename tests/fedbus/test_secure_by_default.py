"""What `fedbus init` writes, run without an edit: broker, aggregator and devices, as processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sklearn.datasets import load_digits

from broker_config.revoke import denied_devices
from broker_config.running import free_port
from fedbus.__main__ import main
from fedbus.listener import Listener
from fedbus.view import count
from fedbus.workplace import Workplace
from protocol.identity import identity_public
from protocol.topics import DEFAULT_PREFIX
from tests.support.mosquitto import require_mosquitto
from transport.settings import Tls

NAMES: Final = ("device-1", "device-2", "device-3")
SECRETS: Final = {
    *("ca.key", "enrolment.key", "aggregator.key", "broker.key", "tls.key", "device.key"),
    *("monitor.key", "keys.json", "passwords", "monitor"),
}
PATIENCE_S: Final = 100.0
_ENVIRONMENT: Final = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
ROOT: Final = Path(__file__).parents[2]


@contextmanager
def process(module: Sequence[str], within: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our commands in a folder while the context lasts."""
    environment = {**_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", *module], cwd=within, stdout=out, stderr=out, env=environment
        ) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def give_data(place: Workplace) -> None:
    """The one thing that init cannot make: each device's own data."""
    x, y = load_digits(return_X_y=True)
    for number, name in enumerate(NAMES):
        part = slice(number, None, len(NAMES))
        np.savez(
            place.carried(name) / "data.npz",
            x=(x[part] / 16).astype(np.float32),
            y=y[part].astype(np.int64),
        )


def spellings(key: bytes) -> tuple[bytes, ...]:
    """How a key could be written: raw, in hex, in base64 without its end, which depends."""
    return key, key.hex().encode(), key.hex().upper().encode(), b64encode(key).rstrip(b"=")[:-1]


def secrets_of(path: Path) -> Iterator[bytes]:
    """Yield what nobody may find elsewhere: the secret parts of a file in all spellings."""
    text = path.read_text()
    if path.name == "keys.json":
        table = json.loads(text)
        for secret in (table["identity"], *table["epochs"].values()):
            yield from spellings(bytes.fromhex(secret))
    elif path.suffix == ".key" and "PRIVATE KEY" in text:
        key = load_pem_private_key(text.encode(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        yield text.splitlines()[1].encode()
        yield from spellings(key.private_numbers().private_value.to_bytes(32, "big"))
    elif path.suffix == ".key":
        yield from spellings(bytes.fromhex(text))
    elif path.name == "passwords":
        yield from (line.partition(":")[2].encode() for line in text.splitlines())
    else:
        yield text.strip().encode()


def secret_files(place: Workplace) -> Iterator[Path]:
    for pattern in ("*.key", "keys.json", "passwords", "secrets/*"):
        yield from place.directory.rglob(pattern)


def leaks(secrets: Mapping[str, Iterable[bytes]], seen: Mapping[str, bytes]) -> list[str]:
    """Return which secrets stand in what was seen, by their files' names."""
    return [
        f"{path} in {where}"
        for path, parts in secrets.items()
        for where, data in seen.items()
        if any(part in data for part in parts)
    ]


def command_lines() -> dict[str, bytes]:
    """Return what anybody on the machine can read of all processes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found[str(path)] = path.read_bytes()
    return found


def refused_without_a_password(place: Workplace, port: int) -> None:
    """The listener that asks for no certificate asks for a password."""
    tls = Tls(place.ca / "ca.crt")
    with Listener(
        host="127.0.0.1", port=port, prefix=DEFAULT_PREFIX, task="digits", tls=tls
    ) as anybody:
        assert anybody.listen_until(lambda: bool(anybody.problem), 10.0)
        assert "uthori" in anybody.problem, anybody.problem


def revoked_within_s(place: Workplace, port: int, device: str, limit_s: float) -> None:
    """Revoke a device as an operator would; the broker must soon refuse its certificate."""
    own, carried = place.directory.with_name("stolen"), place.carried(device)
    own.mkdir()
    for name in ("ca.crt", "device.crt", "device.key"):
        shutil.copy(carried / name, own)
    assert main(["devices", "revoke", device, "--config", str(place.fed)]) == 0
    begun = time.monotonic()
    assert not (place.carried(device) / "keys.json").exists()
    tls = Tls(own / "ca.crt", own / "device.crt", own / "device.key")
    with Listener(
        host="127.0.0.1", port=port, prefix=DEFAULT_PREFIX, task="digits", tls=tls
    ) as stolen:
        assert stolen.listen_until(lambda: "was revoked" in stolen.problem, limit_s), stolen.problem
    assert device in denied_devices(place.broker)
    assert time.monotonic() - begun < limit_s


def test_what_is_run_below_is_the_default_but_for_its_ports(tmp_path: Path) -> None:
    default, moved = Workplace(tmp_path / "default"), Workplace(tmp_path / "moved")
    assert main(["init", str(default.directory)]) == 0
    ports = ["--port", "18883", "--password-port", "18884"]
    assert main(["init", str(moved.directory), *ports]) == 0
    for path in ("fed.toml", "broker/mosquitto.conf", "broker/acl", "device.toml"):
        ours, theirs = ((each.directory / path).read_text() for each in (default, moved))
        key = ours.partition('enrolment_key = "')[2].partition('"')[0]
        other = theirs.partition('enrolment_key = "')[2].partition('"')[0]
        assert theirs.replace("1888", "888").replace(other, key) == ours, path


@pytest.mark.broker
@pytest.mark.slow
def test_a_fresh_init_trains_over_mutual_tls_with_masked_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    place = Workplace(tmp_path / "farm")
    port, for_passwords = free_port(), free_port()
    ports = ["--port", str(port), "--password-port", str(for_passwords)]
    assert main(["init", str(place.directory), *ports]) == 0
    capsys.readouterr()
    secrets = {str(path): list(secrets_of(path)) for path in secret_files(place)}
    assert {Path(path).name for path in secrets} == SECRETS
    for path in secrets:  # what follows would find it
        assert leaks(secrets, {path: Path(path).read_bytes()})
    public = identity_public(
        bytes.fromhex(json.loads((place.carried("device-1") / "keys.json").read_text())["identity"])
    )
    give_data(place)
    certificate, key = place.service("monitor")
    listener = Listener(
        host="127.0.0.1",
        port=port,
        prefix=DEFAULT_PREFIX,
        task="digits",
        tls=Tls(place.ca / "ca.crt", certificate, key),
    )
    with ExitStack() as stack:
        log = tmp_path / "broker.log"
        stack.enter_context(process(["fedbus", "broker", "up", "farm"], tmp_path, log))
        until(lambda: b"with TLS" in log.read_bytes(), "a broker with TLS")
        stack.enter_context(
            process(
                ["fedbus", "aggregator", "run", "--config", "fed.toml"],
                place.directory,
                tmp_path / "aggregator.log",
            )
        )
        for name in NAMES:
            stack.enter_context(
                process(
                    ["device_sdk", "run", "--config", "device.toml"],
                    place.carried(name),
                    tmp_path / f"{name}.log",
                )
            )
        stack.enter_context(listener)
        reached = listener.listen_until(
            lambda: count(listener.view.report("metrics"), "version") >= 1, PATIENCE_S
        )
        said = {path.name: path.read_text()[-1500:] for path in tmp_path.glob("*.log")}
        assert reached, said
        metrics = listener.view.report("metrics")
        assert count(metrics, "updates_accepted") >= len(NAMES)
        assert main(["status", "--dir", str(place.directory)]) == 0
        refused_without_a_password(place, for_passwords)
        revoked_within_s(place, port, "device-3", 5.0)
        lines = command_lines()
        assert sum(b"device.toml" in line for line in lines.values()) >= len(NAMES)
        assert not leaks(secrets, lines)
    retained = (place.broker / "data" / "mosquitto.db").read_bytes()
    assert public in retained
    logs = {path.name: path.read_bytes() for path in tmp_path.glob("*.log")}
    assert not leaks(secrets, {**logs, "mosquitto.db": retained})
    connected = [line for line in log.read_text().splitlines() if "New client connected" in line]
    assert {line.split("u'")[1].split("'")[0] for line in connected} == {
        "aggregator",
        "monitor",
        *NAMES,
    }
