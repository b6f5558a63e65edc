"""`fedbus devices`: what it shows, and what it writes, with and without an aggregator that runs."""

import time
from importlib import resources
from pathlib import Path

import pytest

from aggregator.records import DeviceRecord, EvidenceRecord, Standing, StandingRecord
from aggregator.store import open_store
from broker_config.files import read_entries, write_accounts
from broker_config.revoke import denied_devices
from fedbus.__main__ import main
from protocol import refusals
from tests.support.federation import Federation
from tests.support.mosquitto import require_mosquitto

Said = pytest.CaptureFixture[str]
#: How soon a decree must hold: ``monitor_s`` is 0.1 s there.
SOON_S = 5.0
SAMPLE = resources.files("fedbus.samples").joinpath("fed.toml").read_text(encoding="utf-8")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose store has one spotless device and one with a history."""
    text = SAMPLE.replace('"aggregator-state"', f'"{tmp_path / "state"}"')
    file = tmp_path / "fed.toml"
    file.write_text(text)
    store = open_store(tmp_path / "state", "digits")
    store.commit(
        [
            DeviceRecord("ada", b"a" * 16),
            DeviceRecord("eve", b"e" * 16),
            EvidenceRecord("eve", refusals.NOT_FINITE, 3, 11.5),
            EvidenceRecord("eve", "late", 7, 0.3),
            StandingRecord("eve", Standing.QUARANTINED, "not_finite: contains NaN or infinity"),
        ]
    )
    store.close()
    return file


def devices(config: Path, verb: str, *arguments: str) -> int:
    return main(["devices", verb, *arguments, "--config", str(config)])


def standings(config: Path) -> dict[str, Standing]:
    store = open_store(config.parent / "state", "digits")
    try:
        return {each.device: each.standing for each in store.standings()}
    finally:
        store.close()


def test_the_list_has_standing_score_and_why(config: Path, capsys: Said) -> None:
    assert devices(config, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["device", "standing", "score", "why"],
        ["ada", "admitted", "0.0"],
    ]
    assert lines[2].split() == [
        *("eve", "quarantined", "11.8", "not_finite:"),
        *("contains", "NaN", "or", "infinity"),
    ]


def test_the_suspects_are_those_that_something_speaks_against(config: Path, capsys: Said) -> None:
    assert devices(config, "list", "--suspects") == 0
    said = capsys.readouterr().out
    assert "eve" in said
    assert "ada" not in said


def test_a_device_is_shown_with_every_reason(config: Path, capsys: Said) -> None:
    assert devices(config, "show", "eve") == 0
    said = capsys.readouterr().out
    assert "eve: quarantined (not_finite" in said
    assert "score 11.8, quarantined at 10" in said
    assert "11.5        3  not_finite: contains NaN or infinity" in said
    assert " 0.3        7  late: leases ran out without an update" in said


def test_a_device_that_nobody_heard_of_is_status_1(config: Path, capsys: Said) -> None:
    assert devices(config, "show", "bob") == 1
    assert "never heard of" in capsys.readouterr().out


def test_a_release_wipes_the_sheet(config: Path, capsys: Said) -> None:
    assert devices(config, "release", "eve") == 0
    assert standings(config) == {}
    assert devices(config, "show", "eve") == 0
    assert "score 0.0" in capsys.readouterr().out


def test_who_is_revoked_stays_revoked(config: Path, capsys: Said) -> None:
    assert devices(config, "revoke", "ada", "--reason", "stolen") == 0
    assert devices(config, "release", "ada") == 2
    assert devices(config, "quarantine", "ada") == 2
    assert "enrol it anew" in capsys.readouterr().err
    assert standings(config)["ada"] is Standing.REVOKED


def test_a_name_that_nobody_knows_is_refused_before_anything_is_done(
    config: Path, capsys: Said
) -> None:
    before = standings(config)
    for verb in ("quarantine", "revoke"):
        assert devices(config, verb, "nobody") == 1
        assert "nobody: was never heard of" in capsys.readouterr().out
    assert standings(config) == before
    assert devices(config, "revoke", "nobody", "--unknown") == 0
    assert standings(config)["nobody"] is Standing.REVOKED


def test_who_is_enrolled_is_known_before_it_was_heard_of(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = tmp_path / "farm"
    assert main(["init", str(farm), "--scheme", "none", "--device", "a"]) == 0
    monkeypatch.chdir(farm)
    assert main(["enrol", "late"]) == 0
    assert main(["enrol", "token", "newcomer"]) == 0
    write_accounts(farm / "broker", ["by-password"])
    capsys.readouterr()
    assert main(["devices", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == [
        ["device", "standing"],
        ["a", "enrolled"],
        ["late", "enrolled"],
    ]
    assert main(["devices", "show", "late"]) == 0
    assert "late: enrolled, not heard of" in capsys.readouterr().out
    for device in ("late", "newcomer", "by-password"):
        assert main(["devices", "quarantine", device]) == 0
    assert main(["devices", "revoke", "lade"]) == 1
    assert "lade" not in denied_devices(farm / "broker")
    assert main(["devices", "list"]) == 0
    assert "by-password  quarantined" in capsys.readouterr().out


@pytest.fixture
def farm(tmp_path: Path) -> Path:
    """A federation of one device, with keys to be deleted."""
    assert main(["init", str(tmp_path / "farm"), "--scheme", "none", "--device", "a"]) == 0
    return tmp_path / "farm"


@pytest.mark.parametrize("option", ["--broker", "--enrolment"])
@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_folder_that_is_the_wrong_one_is_told_before_anything_is_done(
    farm: Path, option: str, folder: str, capsys: Said
) -> None:
    (farm.parent / "empty").mkdir()
    before = sorted(farm.parent.rglob("*"))
    assert devices(farm / "fed.toml", "revoke", "a", option, str(farm.parent / folder)) == 2
    assert "nothing was done" in capsys.readouterr().err
    assert sorted(farm.parent.rglob("*")) == before


def test_what_can_be_done_of_a_revocation_is_done_and_the_rest_is_listed(
    farm: Path, tmp_path: Path, capsys: Said
) -> None:
    key = farm / "enrolment" / "ca" / "ca.key"
    away = key.rename(tmp_path / "ca.key")  # as it may be
    assert devices(farm / "fed.toml", "revoke", "a") == 1
    said = capsys.readouterr()
    assert "certificates are valid still" in said.err
    assert str(key) in said.err
    assert denied_devices(farm / "broker") == {"a"}
    assert f"deleted {farm / 'enrolment' / 'carry' / 'a'}" in said.out
    away.rename(key)
    assert devices(farm / "fed.toml", "revoke", "a") == 0
    assert "certificates taken back: 1" in capsys.readouterr().out


def test_a_store_that_cannot_be_opened_does_not_keep_the_broker_from_knowing(
    farm: Path, capsys: Said
) -> None:
    (farm / "aggregator" / "state").mkdir()
    (farm / "aggregator" / "state" / "digits.sqlite").write_bytes(b"no database " * 100)
    assert devices(farm / "fed.toml", "revoke", "a") == 1
    assert "the aggregator was not told" in capsys.readouterr().err
    assert denied_devices(farm / "broker") == {"a"}


def test_a_brokers_folder_that_cannot_be_written_leaves_the_rest_revoked(
    farm: Path, capsys: Said
) -> None:
    (farm / "broker" / "acl.new").mkdir()  # in the way of what is to be written
    assert devices(farm / "fed.toml", "revoke", "a") == 1
    said = capsys.readouterr()
    assert "the broker was not told" in said.err
    assert "acl.new" in said.err
    assert "certificates taken back: 1" in said.out
    assert not (farm / "enrolment" / "carry" / "a").exists()


def test_a_name_that_no_device_can_have_is_refused(config: Path, capsys: Said) -> None:
    for name in ("no/device", "aggregator"):
        assert devices(config, "quarantine", name) == 2
        assert devices(config, "revoke", name) == 2
        assert name in capsys.readouterr().err
        assert name not in standings(config)


def test_without_a_store_it_says_who_makes_one(tmp_path: Path, capsys: Said) -> None:
    text = SAMPLE.replace('"aggregator-state"', f'"{tmp_path / "none"}"')
    (tmp_path / "fed.toml").write_text(text)
    assert devices(tmp_path / "fed.toml", "list") == 2
    assert "the aggregator makes it" in capsys.readouterr().err


def test_who_never_took_part_can_be_kept_out_before_the_first_start(
    tmp_path: Path, capsys: Said
) -> None:
    farm = tmp_path / "farm"
    assert main(["init", str(farm)]) == 0
    assert devices(farm / "fed.toml", "quarantine", "device-1") == 0
    said = capsys.readouterr().out
    assert "it knows from its first start on" in said
    assert "never heard of" not in said  # it is enrolled
    assert devices(farm / "fed.toml", "revoke", "device-2") == 0
    said = capsys.readouterr().out
    assert "certificates taken back: 1" in said
    assert "a running aggregator knows within 1 s" in said
    assert devices(farm / "fed.toml", "revoke", "no/device") == 2
    store = open_store(farm / "aggregator" / "state", "digits", model="a digest")
    told = {each.device: each.standing for each in store.standings()}
    store.close()
    assert told == {"device-1": Standing.QUARANTINED, "device-2": Standing.REVOKED}


def test_who_is_revoked_leaves_nothing_to_act_as_it(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = tmp_path / "farm"
    assert main(["init", str(farm)]) == 0
    monkeypatch.chdir(farm)
    assert main(["enrol", "late", "later"]) == 0  # both wait for the next roster
    assert main(["enrol", "token", "newcomer"]) == 0
    write_accounts(farm / "broker", ["late", "later"])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for device in ("late", "newcomer"):
        assert devices(farm / "fed.toml", "revoke", device) == 0
    said = capsys.readouterr().out
    gone = {line.removeprefix("deleted ") for line in said.splitlines() if line[:7] == "deleted"}
    own = farm / "enrolment"
    assert gone == {
        str(farm / "broker" / "secrets" / "late"),
        str(own / "carry" / "late"),
        str(own / "waiting" / "all" / "late.json"),
        str(own / "carry" / "newcomer.token"),
        str(own / "tokens" / "newcomer.json"),
    }
    assert not [path for path in gone if Path(path).exists()]
    assert set(read_entries(farm / "broker" / "passwords")) == {"aggregator", "monitor", "later"}
    assert denied_devices(farm / "broker") == {"late", "newcomer"}
    assert (own / "carry" / "later" / "keys.json").exists()
    assert "next roster" not in said  # neither is in one
    (own / "carry" / "device-1" / "data.npz").write_bytes(b"theirs")
    assert devices(farm / "fed.toml", "revoke", "device-1") == 0
    left = {path.name for path in (own / "carry" / "device-1").iterdir()}
    assert left == {"ca.crt", "data.npz", "device.crt", "device.toml"}
    asked = "--keys next-keys.json --remove device-1"
    said = capsys.readouterr().out
    assert f"fedbus enrol next {own} -c {farm / 'fed.toml'} {asked}" in said
    assert f"fedbus enrol DEVICE... --dir {farm}   (1 more" in said


@pytest.mark.broker
def test_what_an_operator_says_holds_in_a_running_aggregator_within_seconds(
    tmp_path: Path,
) -> None:
    require_mosquitto()
    with Federation(tmp_path, ("ada", "bob"), task={"buffered": {"goal": 1}}) as federation:
        federation.start()
        federation.grows(2)
        (tmp_path / "away").mkdir()  # from the broker's folder, which would be told at once
        file = tmp_path / "away" / "fed.toml"
        file.write_text(federation.config_path("aggregator").read_text())

        def standing(device: str, word: str) -> bool:
            return device in federation.monitor.report("devices").get(word, [])

        since = time.monotonic()
        assert devices(file, "quarantine", "ada") == 0
        federation.until(lambda: standing("ada", "quarantined"), "not quarantined", SOON_S)
        assert time.monotonic() - since < SOON_S
        federation.until(lambda: "quarantined" in federation.refused, "not turned away")
        before = len(federation.record("ada").receipts)
        federation.grows(3)
        assert len(federation.record("ada").receipts) <= before + 1  # one was taken already

        assert devices(file, "release", "ada") == 0
        federation.until(lambda: not standing("ada", "quarantined"), "not released", SOON_S)
        held = len(federation.record("ada").receipts)
        federation.until(lambda: len(federation.record("ada").receipts) > held, "does not go on")

        assert devices(file, "revoke", "bob") == 0
        federation.until(lambda: standing("bob", "revoked"), "not revoked", SOON_S)
        federation.until(lambda: federation.refused.get("revoked"), "still heard")
        assert federation.monitor.report("denied") == {"devices": ["bob"]}
        federation.grows(1)  # ada goes on alone
