"""Identities as files: enrolled without masks, certified anew, locked by the commands for it."""

from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig, IdentityConfig, load_trust
from aggregator.task_config import TaskConfig
from device_sdk import cli
from device_sdk.identity import erase_before, keys_text, parse_keys, read_keys
from fedbus.__main__ import main
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, enrol_plain, issue
from fedbus.key_files import read_key
from fedbus.workplace import sample
from protocol import locked
from protocol.errors import ConfigError
from protocol.identity import identity_public, open_certificate

NAMES = ("ada", "ben")


def test_devices_of_a_task_without_masks_get_keys_that_fit_the_aggregators(tmp_path: Path) -> None:
    made = enrol_plain(tmp_path, "digits", NAMES)
    enrolment, aggregator = (
        read_key(tmp_path / ENROLMENT_PUBLIC),
        read_key(tmp_path / AGGREGATOR_KEY),
    )
    assert made.keys() == set(NAMES)
    for name, path in made.items():
        keys = read_keys(path, task="digits", device=name)
        assert not keys.masked
        assert keys.aggregator == identity_public(aggregator)
        certificate = open_certificate(keys.certificate, enrolment)
        assert (certificate.task, certificate.device, certificate.serial) == ("digits", name, 1)
        assert certificate.identity == identity_public(keys.identity)
        assert parse_keys(keys_text(keys)) == keys
    (more,) = enrol_plain(tmp_path, "digits", ["cleo"]).values()  # by the same operator
    assert read_keys(more, task="digits", device="cleo").enrolment == enrolment
    with pytest.raises(ConfigError, match="never overwritten"):
        enrol_plain(tmp_path, "digits", ["ada"])


def test_a_key_that_a_device_made_is_certified_in_place_of_its_last(tmp_path: Path) -> None:
    enrol_plain(tmp_path, "digits", NAMES)
    enrolment, fresh = read_key(tmp_path / ENROLMENT_PUBLIC), identity_public(bytes(32))
    for serial in (2, 3):
        certificate = open_certificate(issue(tmp_path, "digits", "ada", fresh), enrolment)
        assert (certificate.identity, certificate.serial) == (fresh, serial)


def test_keys_of_before_are_told_to_be_enrolled_anew(tmp_path: Path) -> None:
    (path, _) = enrol_plain(tmp_path, "digits", NAMES).values()
    text = keys_text(read_keys(path, task="digits", device="ada"))
    old = "\n".join(
        line for line in text.splitlines() if "certificate" not in line and "aggregator" not in line
    )
    with pytest.raises(ConfigError, match="enrol the device anew"):
        parse_keys(old.replace("},\n}", "}\n}").replace('",\n}', '"\n}'))


def test_a_device_locks_its_keys_and_they_stay_locked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys, _) = enrol_plain(tmp_path / "operator", "digits", NAMES).values()
    word = tmp_path / "word"
    word.write_text("open sesame\n", encoding="utf-8")
    word.chmod(0o600)
    config = tmp_path / "device.toml"
    config.write_text(
        f'task = "digits"\ndevice = "ada"\nstate_dir = "{tmp_path}/state"\n'
        f'[identity]\nkeys = "{keys}"\npassphrase_file = "{word}"\n',
        encoding="utf-8",
    )
    before = read_keys(keys, task="digits", device="ada")
    assert cli.main(["lock", "--config", str(config)]) == 0
    assert before.identity.hex() not in keys.read_text(encoding="utf-8")
    opened = read_keys(keys, task="digits", device="ada", passphrase_file=str(word))
    assert opened.identity == before.identity
    assert erase_before(keys, opened, 1) == opened
    assert locked.is_locked(keys.read_text(encoding="utf-8"))
    assert cli.main(["lock", "--config", str(config)]) == 2
    assert "locked already" in capsys.readouterr().err


def test_the_aggregators_key_can_be_locked_too(tmp_path: Path) -> None:
    enrol_plain(tmp_path, "digits", NAMES)
    key, word = tmp_path / AGGREGATOR_KEY, tmp_path / "word"
    secret = read_key(key)
    word.write_text("open sesame", encoding="utf-8")
    word.chmod(0o600)
    public = read_key(tmp_path / ENROLMENT_PUBLIC).hex()
    text = sample("fed.toml")
    for old, new in (
        ('# key_file = ""                     # the', f'key_file = "{key}" # the'),
        ('# passphrase_file = ""', f'passphrase_file = "{word}"'),
        ('# enrolment_key = ""', f'enrolment_key = "{public}"'),
    ):
        assert old in text
        text = text.replace(old, new)
    config = tmp_path / "fed.toml"
    config.write_text(text, encoding="utf-8")
    assert main(["aggregator", "lock", "--config", str(config)]) == 0
    assert secret.hex() not in key.read_text(encoding="utf-8")
    identity = IdentityConfig(key_file=str(key), enrolment_key=public, passphrase_file=str(word))
    settings = AggregatorConfig(
        state_dir="s", task=TaskConfig(task="t", model={}), identity=identity
    )
    trust = load_trust(settings)
    assert trust is not None
    assert trust.secret == secret
