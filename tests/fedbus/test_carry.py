"""`fedbus enrol DEVICE` and `fedbus ca`: what devices get, and how it is renewed."""

import stat
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509 import SubjectAlternativeName as HostNames

from broker_config.authority import Authority, days_left, read_certificate
from broker_config.revoke import denied_devices, revoke
from device_sdk.belongings import own_keys
from device_sdk.config import load_config
from fedbus.__main__ import main
from fedbus.ca import SOON_DAYS
from fedbus.enrolment import enrol_next, newest_roster
from fedbus.workplace import Workplace
from protocol.secagg.parameters import Parameters
from tests.support.enrolment import parameters
from transport import Will

Said = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> Workplace:
    """A federation of three masked devices; its folder is the working directory."""
    assert main(["init", str(tmp_path / "farm")]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "farm")
    return Workplace(Path())


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> Workplace:
    """One device that sends its updates in sight."""
    assert main(["init", str(tmp_path / "plain"), "--scheme", "none", "--device", "a"]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "plain")
    return Workplace(Path())


def is_complete(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a device could start in this folder, once it has data."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        config = load_config(Path("device.toml"))
        config.broker.settings("me", username=device, will=Will("w", b""), window=1, queue=1)
        return config.device == device and own_keys(config) is not None


def test_a_new_device_gets_one_folder_with_all_that_it_needs(
    plain: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    assert main(["enrol", "gauge-7"]) == 0
    assert "at once" in capsys.readouterr().out
    assert is_complete(plain.carried("gauge-7"), "gauge-7", monkeypatch)
    assert not list((plain.enrolment / "devices").iterdir())  # nowhere else


def test_a_file_holds_the_same_as_a_folder(
    plain: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["enrol", "--file", "gauge-7"]) == 0
    archive = plain.carried("gauge-7").with_name("gauge-7.tar")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "there", filter="data")
    assert is_complete(tmp_path / "there", "gauge-7", monkeypatch)
    assert not plain.carried("gauge-7").exists()


def test_three_new_devices_make_a_cohort_and_the_aggregator_gets_its_roster(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["enrol", "a", "b", "c", "--cohort", "west"]) == 0
    assert (place.aggregator / "rosters" / "west-1.roster").exists()
    assert is_complete(place.carried("b"), "b", monkeypatch)


def test_a_device_that_joins_a_cohort_has_keys_for_its_next_epoch(
    place: Workplace, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["enrol", "late"]) == 0
    assert "epoch 2 of cohort 'all'" in capsys.readouterr().out
    assert is_complete(place.carried("late"), "late", monkeypatch)
    before = newest_roster(place.enrolment)
    gone = [member.device for member in before.members]  # who stays would have to announce a key
    assert main(["enrol", "later", "latest"]) == 0

    def sized(num_devices: int) -> Parameters:
        return parameters(num_devices)

    made = enrol_next(place.enrolment, sized, {}, remove=gone)
    assert [member.device for member in made.roster.members] == ["late", "later", "latest"]
    assert not list((place.enrolment / "waiting" / "all").iterdir())


def test_the_next_roster_is_laid_down_for_an_aggregator_that_lives_here(
    place: Workplace, tmp_path: Path
) -> None:
    gone = [f"device-{number}" for number in (1, 2, 3)]
    assert main(["enrol", "late", "later", "latest"]) == 0
    (tmp_path / "keys.json").write_text("{}")
    words = [word for name in gone for word in ("--remove", name)]
    command = [
        "enrol",
        "next",
        "enrolment",
        "-c",
        "fed.toml",
        "--keys",
        str(tmp_path / "keys.json"),
    ]
    assert main([*command, *words]) == 0
    rosters = place.aggregator / "rosters"
    assert {path.name for path in rosters.iterdir()} == {"all-1.roster", "all-2.roster"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["enrol", "device-1"], "or was enrolled"),
        (["enrol", "a", "a"], "twice"),
        (["enrol", "broker_", "aggregator"], "service"),
        (["enrol", "a", "b", "--cohort", "new"], "fewer than 3"),
        (["ca", "renew", "nobody"], "never had a certificate"),
        (["ca", "init"], "exists"),
        (["ca", "init", "--dir", "nowhere"], "no such folder"),
        (["ca", "show", "--dir", "nowhere"], "ca init"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    words: list[str], problem: str, place: Workplace, capsys: Said
) -> None:
    before = sorted(place.directory.rglob("*"))
    assert main(words) == 2
    assert problem in capsys.readouterr().err
    assert sorted(place.directory.rglob("*")) == before


def test_the_name_of_a_revoked_device_is_not_given_again(plain: Workplace, capsys: Said) -> None:
    authority = Authority.open(plain.ca)
    told = revoke(authority, "a", plain.broker)
    assert (told.certificates, told.reloaded) == (1, False)
    assert denied_devices(plain.broker) == {"a"}
    assert main(["enrol", "a"]) == 2
    assert "take another name" in capsys.readouterr().err
    assert main(["ca", "renew", "a"]) == 2
    assert "another name" in capsys.readouterr().err
    assert len(authority.issued("a")) == 1


def test_who_lost_a_key_gets_a_new_one_and_the_old_certificate_is_taken_back(
    plain: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.open(plain.ca)
    old = read_certificate(plain.carried("a") / "device.crt").serial_number
    assert main(["ca", "renew", "a", "--lost"]) == 0
    new = read_certificate(plain.carried("a") / "device.crt").serial_number
    assert authority.revoked() == {old}
    assert new != old
    assert (plain.broker / "crl.pem").read_bytes() == authority.list_pem
    assert is_complete(plain.carried("a"), "a", monkeypatch)


def test_show_counts_days_and_says_by_its_status_what_ends_soon(
    place: Workplace, capsys: Said
) -> None:
    authority = Authority.open(place.ca)
    assert main(["ca", "show"]) == 0
    soon = datetime.now(UTC) - timedelta(days=700)
    authority.issue_client("old", now=soon)
    revoke(authority, "device-2")
    assert main(["ca", "show"]) == 1
    said = capsys.readouterr().out
    assert "old         29 days left: `fedbus ca renew`" in said
    assert "device-2    revoked" in said
    assert "device-1    729 days left" in said


def test_renewal_replaces_what_ends_soon_for_the_same_hosts(place: Workplace, capsys: Said) -> None:
    certificate = place.broker / "broker.crt"
    assert main(["ca", "renew"]) == 0
    assert "nothing ends" in capsys.readouterr().out
    before = read_certificate(certificate)
    assert main(["ca", "renew", "broker", "aggregator", "device-1"]) == 0
    after = read_certificate(certificate)
    assert after.serial_number != before.serial_number
    names = [each.extensions.get_extension_for_class(HostNames).value for each in (before, after)]
    assert {*names[0]} == {*names[1]}
    assert days_left(after) > SOON_DAYS
    issued = {each.serial_number for each in Authority.open(place.ca).issued("aggregator")}
    assert read_certificate(place.aggregator / "tls.crt").serial_number in issued
    assert len(issued) == 2
