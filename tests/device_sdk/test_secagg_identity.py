"""The keys file: read once, checked, and never shown."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_sdk.belongings import own_keys
from device_sdk.config import DeviceConfig, IdentityConfig, SecureConfig
from device_sdk.device import Device
from device_sdk.identity import erase_before, parse_keys, read_keys
from device_sdk.trainer import NumpyTrainer
from protocol.codec import encode
from protocol.errors import ConfigError
from protocol.messages import AGGREGATOR
from tests.support.enrolment import SIGNER, cohort

GIVEN = cohort(("a", "b", "c"))
TABLE = GIVEN.keys["a"]
SECRETS = (str(TABLE["identity"]), GIVEN.epoch_secret("a").hex())


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_the_keys_of_a_device_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.keys", json.dumps(TABLE))
    keys = read_keys(path, task="t", device="a")
    assert keys.identity == GIVEN.identity("a")
    assert keys.epochs == {1: GIVEN.epoch_secret("a")}
    assert keys.enrolment == GIVEN.enrolment
    assert keys.cohort == "all"


def test_keys_never_show_themselves() -> None:
    keys = parse_keys(json.dumps(TABLE))
    for shown in (repr(keys), str(keys), f"{keys}", f"{[keys]}", keys.fingerprint):
        for secret in SECRETS:
            assert secret not in shown
            assert repr(bytes.fromhex(secret))[2:10] not in shown
    assert len(keys.fingerprint) == 16


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_keys_that_others_may_read_are_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "a.keys", json.dumps(TABLE), mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(path, task="t", device="a")


@pytest.mark.parametrize(("task", "device"), [("t", "b"), ("u", "a")])
def test_the_keys_of_another_device_or_task_are_refused(
    tmp_path: Path, task: str, device: str
) -> None:
    path = write(tmp_path / "a.keys", json.dumps(TABLE))
    with pytest.raises(ConfigError, match="the keys of device 'a' in task 't'"):
        read_keys(path, task=task, device=device)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.keys: No such file"):
        read_keys(tmp_path / "a.keys", task="t", device="a")


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "00"},
        {"identity": "zz" * 32},
        {"identity": 5},
        {"enrolment": ""},
        {"epochs": []},
        {"epochs": {"one": "00" * 32}},
        {"epochs": {"1": "00"}},
        {"epochs": {"": "00" * 32}},
        {"device": "A/B"},
        {"task": None},
        {"more": 1},
    ],
)
def test_a_file_of_another_shape_is_refused_without_showing_it(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = write(tmp_path / "a.keys", json.dumps({**TABLE, **change}))
    with pytest.raises(ConfigError, match=r"a\.keys: ") as refused:
        read_keys(path, task="t", device="a")
    assert not [secret for secret in SECRETS if secret in str(refused.value)]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"identity"'])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_keys(text)


def two_epochs(tmp_path: Path) -> Path:
    epochs = {"1": GIVEN.epoch_secret("a").hex(), "2": "22" * 32}
    return write(tmp_path / "a.keys", json.dumps({**TABLE, "epochs": epochs}))


def test_the_secrets_of_epochs_that_are_over_leave_the_file(tmp_path: Path) -> None:
    path = two_epochs(tmp_path)
    keys = read_keys(path, task="t", device="a")
    left = erase_before(path, keys, 2)
    assert left.epochs == {2: b"\x22" * 32}
    again = read_keys(path, task="t", device="a")
    assert again == left
    assert again.identity == keys.identity
    assert GIVEN.epoch_secret("a").hex() not in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["a.keys"]


def test_a_file_without_old_secrets_is_not_touched(tmp_path: Path) -> None:
    path = two_epochs(tmp_path)
    keys = read_keys(path, task="t", device="a")
    before = path.stat().st_ino
    assert erase_before(path, keys, 1) is keys
    assert path.stat().st_ino == before


def test_a_rewriting_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    path = two_epochs(tmp_path)
    (tmp_path / "a.keys.partial").write_text("half", encoding="utf-8")
    erase_before(path, read_keys(path, task="t", device="a"), 2)
    assert read_keys(path, task="t", device="a").epochs.keys() == {2}


def test_a_running_device_erases_them_when_a_roster_of_a_higher_epoch_is_stored(
    tmp_path: Path,
) -> None:
    path = two_epochs(tmp_path)
    config = DeviceConfig(
        task="t",
        device="a",
        state_dir=str(tmp_path / "state"),
        identity=IdentityConfig(keys=str(path)),
    )
    later = cohort(("a", "b", "c"), epoch=2)
    device = Device(config, NumpyTrainer(data=(np.zeros((1, 2)), np.zeros(1))))
    try:
        topic = device.topics.roster("all")
        payload = encode(
            later.signed, task="t", sender=AGGREGATOR, counter=1, sign=SIGNER.on(topic)
        )
        device._perform(device._session.message(topic, payload, 0.0))
    finally:
        device.stop()
        device._leave()
    assert read_keys(path, task="t", device="a").epochs.keys() == {2}


def test_a_device_that_names_keys_is_secure_and_fails_closed_without_them(tmp_path: Path) -> None:
    def config(keys: str) -> DeviceConfig:
        return DeviceConfig(
            task="t", device="a", state_dir=str(tmp_path), identity=IdentityConfig(keys=keys)
        )

    assert own_keys(config("")) is None
    path = write(tmp_path / "a.keys", json.dumps(TABLE))
    assert own_keys(config(str(path))) is not None
    with pytest.raises(ConfigError):
        own_keys(config(str(tmp_path / "missing")))


@pytest.mark.parametrize("given", [{"stock": 0}, {"stock": 9}, {"max_share_bytes": 0}])
def test_settings_out_of_range_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        SecureConfig(**given)


def test_a_device_of_a_task_that_is_not_secure_loads_none_of_it() -> None:
    program = (
        "import sys, device_sdk, device_sdk.session\n"
        "names = [name for name in sys.modules if 'secagg' in name or 'nacl.signing' in name"
        " or name in ('device_sdk.identity', 'device_sdk.masking')]\n"
        "sys.exit(str(names) if names else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
