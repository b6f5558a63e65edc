"""The operator's desk: garbage, floods and a broker that is away do not end it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker_config.files import BrokerFiles, read_entries
from broker_config.running import free_port, running_secure_broker
from device_sdk.redeem import read_token, request_of
from fedbus import redeeming
from fedbus.__main__ import main
from fedbus.redeeming import BUDGET, Intake, Outage
from fedbus.tokens import LINGER_S, Desk
from fedbus.workplace import Workplace
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.support.mosquitto import require_mosquitto
from transport import Connected, Refused

TOPICS = Topics(DEFAULT_PREFIX, "digits")
OWN = {name: bytes([n]) * 32 for n, name in enumerate(("identity", "tls", "epoch_secret"), 1)}
ROOT = Path(__file__).parents[2]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def farm(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path / "farm")
    assert main(["init", str(place.directory), "--scheme", "none"]) == 0
    assert main(["enrol", "token", "ada", "bob", "--dir", str(place.directory)]) == 0
    return place


def request(place: Workplace, device: str) -> bytes:
    return request_of(read_token(place.carried(device).with_name(f"{device}.token")), OWN)


def test_who_floods_is_counted_and_told_of_once_a_minute_and_the_others_are_answered(
    farm: Workplace,
) -> None:
    intake = Intake(Desk(farm), TOPICS)
    garbage = [("device-1", b"x"), ("join-ada", b"\xc1"), ("join-none", request(farm, "ada"))]
    for account, data in garbage * 500:
        assert intake.answer(TOPICS.share("operator", account), data, 0.0) is None
    assert intake.answer(f"{DEFAULT_PREFIX}/digits/share/operator/No Id", b"", 0.0) is None
    assert intake.complaint(1.0).startswith("refused 1501, ")
    assert intake.complaint(2.0) == ""
    answer = intake.answer(TOPICS.share("operator", "join-bob"), request(farm, "bob"), 3.0)
    assert answer is not None
    assert answer[0] == TOPICS.share("join-bob", "operator")
    asked = TOPICS.share("operator", "join-ada"), request(farm, "ada")
    assert intake.answer(*asked, 59.0) is None, "its budget was spent"
    assert intake.complaint(60.9) == ""
    assert intake.answer(*asked, 60.0) is not None
    assert f"join-ada: more than {BUDGET}" in intake.complaint(61.0)


def test_of_more_accounts_than_are_counted_none_is_read(
    farm: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeeming, "MAX_ACCOUNTS", 3)
    intake = Intake(Desk(farm), TOPICS)
    for number in range(3):
        intake.answer(TOPICS.share("operator", f"device-{number}"), b"", 0.0)
    asked = TOPICS.share("operator", "join-ada"), request(farm, "ada")
    assert intake.answer(*asked, 1.0) is None
    assert intake.answer(*asked, 60.0) is not None


def test_a_damaged_file_of_one_token_does_not_keep_the_others_from_theirs(
    farm: Workplace, capsys: Said
) -> None:
    file = farm.enrolment / "tokens" / "ada.json"
    file.write_text("{")
    desk = Desk(farm)
    desk.tidy()
    assert desk.outstanding == ["bob"]
    assert [str(file) in problem for problem in desk.damaged] == [True]
    intake = Intake(desk, TOPICS)
    assert intake.answer(TOPICS.share("operator", "join-ada"), request(farm, "ada"), 0.0) is None
    assert "damaged" in intake.complaint(0.0)
    assert intake.answer(TOPICS.share("operator", "join-bob"), request(farm, "bob"), 0.0)
    assert main(["devices", "list", "--config", str(farm.fed)]) == 0
    assert "ada" not in capsys.readouterr().out.split(), "not enrolled yet"


def test_a_broker_that_is_away_is_told_of_once_and_one_that_refuses_for_good_is_the_end() -> None:
    said: list[str] = []
    outage = Outage(said.append)
    for _ in range(3):
        outage.saw(Refused("[Errno 111] Connection refused", permanent=False))
    assert len(said) == 1
    outage.saw(Connected(session_present=False, protocol="5", max_packet_bytes=1))
    outage.saw(Refused("no answer", permanent=False))
    assert len(said) == 2
    with pytest.raises(ConfigError, match="refuses the operator: not authorised"):
        outage.saw(Refused("not authorised", permanent=True))


@pytest.mark.parametrize(
    "command", [["devices", "list"], ["enrol", "late"], ["enrol", "token", "late"]]
)
def test_commands_that_look_at_the_folder_take_away_accounts_that_are_over(
    farm: Workplace, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = time.time() - LINGER_S - 1
    Desk(farm, now=lambda: long_ago).asked("join-ada", request(farm, "ada"))
    monkeypatch.chdir(farm.directory)
    assert "join-ada" in read_entries(BrokerFiles(farm.broker).passwords)
    assert main(command) == 0
    assert "join-ada" not in read_entries(BrokerFiles(farm.broker).passwords)
    assert "join-ada" not in BrokerFiles(farm.broker).acl.read_text()
    assert "join-bob" in read_entries(BrokerFiles(farm.broker).passwords)


@pytest.mark.parametrize("name", ["operator", "join-x"])
def test_nobody_is_enrolled_under_a_name_of_the_desk(farm: Workplace, name: str) -> None:
    assert main(["enrol", name, "--dir", str(farm.directory)]) == 2


@pytest.mark.broker
def test_the_desk_outlives_its_broker(tmp_path: Path) -> None:
    require_mosquitto()
    ports = ["--port", str(free_port()), "--password-port", str(free_port())]
    place = Workplace(tmp_path / "farm")
    assert main(["init", str(place.directory), "--scheme", "none", *ports]) == 0
    assert main(["enrol", "token", "ada", "--dir", str(place.directory)]) == 0
    redeem = [sys.executable, "-m", "fedbus", "enrol", "redeem", "--dir", str(place.directory)]
    join = [sys.executable, "-m", "device_sdk", "redeem", "--dir", str(tmp_path / "device")]
    join += ["--token", str(place.carried("ada").with_name("ada.token")), "--deadline", "40"]
    with subprocess.Popen(redeem, cwd=ROOT, stdout=subprocess.PIPE, text=True) as desk:
        assert desk.stdout is not None
        assert "it is tried again" in desk.stdout.readline()  # the broker is not up yet
        with running_secure_broker(place.broker):
            subprocess.run(join, cwd=ROOT, check=True, timeout=50, stdout=subprocess.PIPE)
            said, _ = desk.communicate(timeout=20)
        assert desk.returncode == 0
    assert "ada: answered" in said
    assert "join-ada: at the broker until 20" in said
