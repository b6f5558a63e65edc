"""The broker's folder: nothing readable by others, nothing lost by writing again."""

import stat
from pathlib import Path

import pytest

from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.files import BrokerFiles, read_entries, write_accounts, write_broker
from broker_config.mosquitto import is_password
from protocol.errors import ConfigError


def test_every_account_gets_a_password_of_its_own_that_fits_its_entry(tmp_path: Path) -> None:
    files = write_broker(tmp_path, ["a", "b"], port=2883)
    entries = read_entries(files.passwords)
    secrets = {name: files.secret(name).read_text().strip() for name in entries}
    assert list(entries) == [AGGREGATOR, MONITOR, "a", "b"]
    assert len(set(secrets.values())) == 4
    assert all(is_password(entries[name], secrets[name]) for name in entries)


def test_only_the_owner_can_read_what_is_written(tmp_path: Path) -> None:
    files = write_broker(tmp_path, ["a"], port=2883)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {files.config, files.acl, files.passwords, files.secret("a")} <= set(written)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert stat.S_IMODE(files.secret("a").parent.stat().st_mode) == 0o700


def test_the_configuration_names_the_port_and_the_files_beside_it(tmp_path: Path) -> None:
    files = write_broker(tmp_path, port=2883, host="127.0.0.2")
    lines = files.config.read_text().splitlines()
    assert "listener 2883 127.0.0.2" in lines
    assert f"acl_file {files.acl}" in lines
    assert f"password_file {files.passwords}" in lines
    assert f"persistence_location {files.data}/" in lines


def test_writing_again_keeps_every_password(tmp_path: Path) -> None:
    files = write_broker(tmp_path, ["a"], port=2883)
    before = read_entries(files.passwords)
    write_broker(tmp_path, ["b"], port=2884)
    after = read_entries(files.passwords)
    assert after.keys() == before.keys() | {"b"}
    assert {name: after[name] for name in before} == before


def test_an_account_outlives_the_secret_that_was_handed_to_its_device(tmp_path: Path) -> None:
    files = write_accounts(tmp_path, ["a"])
    entry = read_entries(files.passwords)["a"]
    files.secret("a").unlink()
    write_accounts(tmp_path, ["a"])
    assert read_entries(files.passwords)["a"] == entry
    assert not files.secret("a").exists()


def test_a_secret_whose_entry_was_never_written_is_used_not_replaced(tmp_path: Path) -> None:
    """A crash between the two writes: the device may have its password already."""
    files = write_accounts(tmp_path, ["a"])
    secret = files.secret("a").read_text()
    files.passwords.unlink()
    write_accounts(tmp_path, ["a"])
    assert files.secret("a").read_text() == secret
    assert is_password(read_entries(files.passwords)["a"], secret.strip())


def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Sensor 1"):
        write_broker(tmp_path / "broker", ["Sensor 1"], port=2883)
    assert not BrokerFiles(tmp_path / "broker").directory.exists()
