"""`fedbus enrol`: who gets which key, and that no roster is made twice."""

import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nacl.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import AggregatorConfig, load_config, load_enrolment
from broker_config.running import free_port
from device_sdk.identity import Keys, read_keys
from fedbus.__main__ import main
from fedbus.announcements import (
    Announcement,
    Collector,
    announced_text,
    parse_announced,
    read_announcement,
)
from fedbus.enrolment import (
    Enrolled,
    enrol,
    enrol_next,
    enrol_waiting,
    newest_roster,
    read_roster,
)
from fedbus.key_files import read_key
from fedbus.toml_text import fill
from fedbus.workplace import sample
from protocol.errors import ConfigError
from protocol.secagg import keys
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster
from protocol.topics import Topics
from tests.support.bus_client import BusClient
from tests.support.enrolment import parameters
from tests.support.mosquitto import (
    Mosquitto,
    broker,  # noqa: F401
)
from transport import Message
from transport.config import BrokerConfig

NAMES = tuple(f"pump-{number:02}" for number in range(1, 13))
TOPICS = Topics("fedbus/1", "digits")


#: Where a key stands, if not in [secure].
TABLES = {"port": "broker", "key_file": "identity", "enrolment_key": "identity"}


def sized(num_devices: int) -> Parameters:
    return parameters(num_devices)


def made(directory: Path, names: tuple[str, ...] = NAMES) -> Enrolled:
    return enrol(directory, sized(len(names)), "digits", names)


def device_keys(enrolled: Enrolled, device: str) -> Keys:
    return read_keys(enrolled.keys_files[device], task="digits", device=device)


def announced_by(identity: bytes, epoch: int, key: bytes | None = None) -> Announcement:
    public = keys.epoch_public(nacl.utils.random(32)) if key is None else key
    text = keys.endorsed("digits", epoch, public)
    return Announcement(epoch, public, keys.sign(identity, keys.EPOCH_KEY, text))


def announcements(enrolled: Enrolled, epoch: int = 2) -> dict[str, Announcement]:
    return {
        device: announced_by(device_keys(enrolled, device).identity, epoch)
        for device in enrolled.keys_files
    }


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def config_file(folder: Path, **changes: object) -> Path:
    """A sample configuration for masked updates."""
    text = sample("fed.toml")
    for key, value in changes.items():
        text = fill(text, {TABLES.get(key, "secure"): {key: value}})
    file = folder / "fed.toml"
    file.write_text(text, encoding="utf-8")
    return file


def every_device() -> list[str]:
    return [word for name in NAMES for word in ("--device", name)]


def test_everybody_gets_a_file_that_works(tmp_path: Path) -> None:
    enrolled = made(tmp_path / "enrolment")
    roster = read_roster(enrolled.roster_file, enrolled.enrolment_key)
    assert roster == enrolled.roster == newest_roster(tmp_path / "enrolment")
    assert keys.identity_public(read_key(enrolled.aggregator_file)) == roster.aggregator
    for member in roster.members:
        own = device_keys(enrolled, member.device)
        assert (own.cohort, own.enrolment) == ("all", enrolled.enrolment_key)
        assert keys.identity_public(own.identity) == member.identity
        assert keys.epoch_public(own.epochs[1]) == member.epoch_key


def test_the_aggregator_takes_what_was_made_from_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "enrolment"
    plain = config_file(tmp_path)
    assert main(["enrol", "new", str(folder), "--config", str(plain), *every_device()]) == 0
    said = capsys.readouterr().out
    assert f'enrolment_key = "{read_key(folder / "enrolment.pub").hex()}"' in said
    assert "NEVER on the aggregator's host" in said
    config = load_config(as_told(tmp_path, folder))
    enrolment = load_enrolment(config)
    assert enrolment is not None
    (signed,) = enrolment.rosters
    roster = newest_roster(folder)
    assert signed.body == roster.body
    assert keys.identity_public(enrolment.secret) == roster.aggregator
    size = config.task.model_spec().layout.size
    config.secure.check_roster(config.task, roster.parameters, size)
    assert roster.valid_s == config.secure.epoch_s


def as_told(tmp_path: Path, folder: Path, **changes: object) -> Path:
    """The configuration with the lines that `enrol new` printed."""
    return config_file(
        tmp_path,
        rosters=str(folder / "rosters"),
        key_file=str(folder / "aggregator.key"),
        enrolment_key=read_key(folder / "enrolment.pub").hex(),
        **changes,
    )


def secrets(enrolled: Enrolled) -> list[bytes]:
    found = [read_key(enrolled.directory / name) for name in ("enrolment.key", "aggregator.key")]
    for device in enrolled.keys_files:
        own = device_keys(enrolled, device)
        found += [own.identity, *own.epochs.values()]
    return found


def test_no_two_secrets_are_the_same(tmp_path: Path) -> None:
    drawn = [secret for name in "ab" for secret in secrets(made(tmp_path / name))]
    assert len(set(drawn)) == len(drawn) == 2 * (2 + 2 * len(NAMES))


def test_a_secret_lies_in_the_one_file_that_is_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "enrolment"
    config = config_file(tmp_path)
    assert main(["enrol", "new", str(folder), "-c", str(config), *every_device()]) == 0
    said = "".join(capsys.readouterr())
    names = {name: folder / "devices" / f"{name}.json" for name in NAMES}
    roster = newest_roster(folder)
    file, public = folder / "rosters" / "all-1.roster", read_key(folder / "enrolment.pub")
    for secret in secrets(Enrolled(folder, roster, file, names, public)):
        assert secret.hex() not in said
        holding = [data for data in files(folder).values() if secret.hex().encode() in data]
        assert len(holding) == 1
        assert not [data for data in files(folder).values() if secret in data]


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    made(tmp_path / "enrolment")
    for path in files(tmp_path):
        open_to_all = path.suffix in {".pub", ".roster"} or path.parent.name == "certificates"
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == (0o044 if open_to_all else 0), path
    assert stat.S_IMODE((tmp_path / "enrolment").stat().st_mode) == 0o700


def test_a_second_roster_for_an_epoch_is_refused_and_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = tmp_path / "enrolment", config_file(tmp_path)
    command = ["enrol", "new", str(folder), "-c", str(config)]
    assert main([*command, *every_device()]) == 0
    before = files(folder)
    assert main([*command, *every_device()]) == 2
    others = [word.replace("pump", "fan") for word in every_device()]
    assert main([*command, *others]) == 2
    assert "two of one epoch" in capsys.readouterr().err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ((), "3 to 128"),
        (("a", "b"), "3 to 128"),
        (("a", "b", "b"), "twice"),
        (("a", "b", "c/d"), "a-z"),
        (("a", "b", "aggregator"), "service"),
    ],
)
def test_devices_that_cannot_be_are_refused_before_anything_is_written(
    names: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        made(tmp_path / "enrolment", names)
    assert not files(tmp_path)


@pytest.mark.parametrize("left", ["aggregator.key", "devices/pump-03.json", "enrolment.pub"])
def test_what_lies_there_already_is_never_overwritten(left: str, tmp_path: Path) -> None:
    path = tmp_path / left
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists"):
        made(tmp_path)
    assert files(tmp_path) == {path: b"mine"}


def test_a_task_can_have_a_second_cohort_of_other_devices(tmp_path: Path) -> None:
    first = made(tmp_path)
    second = enrol(tmp_path, sized(3), "digits", ("fan-1", "fan-2", "fan-3"), cohort="fans")
    assert second.enrolment_key == first.enrolment_key
    assert second.roster.aggregator == first.roster.aggregator
    assert newest_roster(tmp_path, "fans") == second.roster
    assert newest_roster(tmp_path) == first.roster
    with pytest.raises(ConfigError, match="pump-01 is in cohort 'all'"):
        enrol(tmp_path, sized(3), "digits", ("pump-01", "fan-4", "fan-5"), cohort="more")
    with pytest.raises(ConfigError, match="task 'digits'"):
        enrol(tmp_path, sized(3), "heat", ("x", "y", "z"), cohort="more")


def test_the_next_epoch_has_the_keys_that_the_devices_announced(tmp_path: Path) -> None:
    first = made(tmp_path)
    announced = announcements(first)
    second = enrol_next(tmp_path, sized, announced)
    assert second.roster.epoch == 2
    assert not second.keys_files
    assert read_roster(second.roster_file, first.enrolment_key) == second.roster
    for before, after in zip(first.roster.members, second.roster.members, strict=True):
        assert after.identity == before.identity
        assert after.epoch_key == announced[after.device].key


def test_devices_come_and_go_between_epochs(tmp_path: Path) -> None:
    announced = announcements(made(tmp_path))
    del announced["pump-07"]
    second = enrol_next(tmp_path, sized, announced, add=("fan-1", "fan-2"), remove=("pump-07",))
    names = {member.device for member in second.roster.members}
    assert names == {*NAMES, "fan-1", "fan-2"} - {"pump-07"}
    assert second.roster.parameters == sized(13)
    assert set(second.keys_files) == {"fan-1", "fan-2"}
    own = device_keys(second, "fan-1")
    assert set(own.epochs) == {2}
    index = second.roster.index("fan-1")
    assert index is not None
    assert keys.epoch_public(own.epochs[2]) == second.roster.members[index].epoch_key


def test_a_device_that_waits_may_be_named_again(tmp_path: Path) -> None:
    announced = announcements(made(tmp_path))
    keys_file = enrol_waiting(tmp_path, ("fan-1",))["fan-1"]
    before = keys_file.read_bytes()
    second = enrol_next(tmp_path, sized, announced, add=("fan-1", "fan-2"))
    assert {member.device for member in second.roster.members} == {*NAMES, "fan-1", "fan-2"}
    assert set(second.keys_files) == {"fan-2"}
    assert keys_file.read_bytes() == before


def test_settings_of_the_roster_may_change_with_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "enrolment"
    first = ["enrol", "new", str(folder), "--config", str(config_file(tmp_path))]
    assert main([*first, *every_device()]) == 0
    config = as_told(tmp_path, folder, bits=18)
    assert main(["aggregator", "check", "--config", str(config)]) == 2
    assert "bits = 16" in capsys.readouterr().err
    checked = load_config(config)
    size = checked.task.trained().layout.size
    announced = announced_from(checked, newest_roster(folder), folder)
    enrol_next(folder, lambda n: checked.secure.parameters(checked.task, n, size), announced)
    assert main(["aggregator", "check", "--config", str(config)]) == 0


def test_the_aggregators_key_may_have_left_the_folder(tmp_path: Path) -> None:
    first = made(tmp_path)
    announced = announcements(first)
    first.aggregator_file.unlink()
    for path in first.keys_files.values():
        path.unlink()
    assert enrol_next(tmp_path, sized, announced).roster.aggregator == first.roster.aggregator


def test_the_same_announcements_make_no_second_roster(tmp_path: Path) -> None:
    announced = announcements(made(tmp_path))
    enrol_next(tmp_path, sized, announced)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="no key of epoch 3"):
        enrol_next(tmp_path, sized, announced)
    assert files(tmp_path) == before


LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


def wrong(identity: bytes, good: Announcement) -> Mapping[str, tuple[Announcement | None, str]]:
    other = nacl.utils.random(32)
    return {
        "nothing": (None, "announced no key of epoch 2"),
        "the present epoch's": (announced_by(identity, 1), "announced no key of epoch 2"),
        "a later epoch's": (announced_by(identity, 3), "announced epoch 3"),
        "relabelled": (replace(announced_by(identity, 1), epoch=2), "not its own"),
        "another identity's": (announced_by(other, 2), "not its own"),
        "a swapped key": (replace(good, key=keys.epoch_public(other)), "not its own"),
        "of low order": (announced_by(identity, 2, LOW_ORDER), "not its own"),
    }


@pytest.mark.parametrize("case", list(wrong(bytes(32), announced_by(bytes(32), 2))))
def test_a_key_that_its_device_did_not_announce_is_refused(case: str, tmp_path: Path) -> None:
    first = made(tmp_path)
    announced = announcements(first)
    identity = device_keys(first, "pump-05").identity
    given, problem = wrong(identity, announced["pump-05"])[case]
    if given is None:
        del announced["pump-05"]
    else:
        announced["pump-05"] = given
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=f"pump-05.*{problem}"):
        enrol_next(tmp_path, sized, announced)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("add", "remove", "problem"),
    [
        (("pump-01",), (), "already"),
        (("fan", "fan"), (), "twice"),
        ((), ("fan",), "cannot be removed"),
        ((), NAMES[:10], "3 to 128"),
        (("Fan",), (), "a-z"),
    ],
)
def test_changes_that_cannot_be_are_refused(
    add: tuple[str, ...], remove: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    announced = announcements(made(tmp_path))
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=problem):
        enrol_next(tmp_path, sized, announced, add=add, remove=remove)
    assert files(tmp_path) == before


def test_a_removed_device_that_returns_does_not_get_its_old_keys_file_overwritten(
    tmp_path: Path,
) -> None:
    first = made(tmp_path)
    identities = {device: device_keys(first, device).identity for device in NAMES}
    enrol_next(tmp_path, sized, announcements(first), remove=("pump-01",))
    announced = {device: announced_by(identities[device], 3) for device in NAMES}
    with pytest.raises(ConfigError, match=r"pump-01\.json exists"):
        enrol_next(tmp_path, sized, announced, add=("pump-01",))
    first.keys_files["pump-01"].unlink()
    third = enrol_next(tmp_path, sized, announced, add=("pump-01",))
    assert device_keys(third, "pump-01").identity != identities["pump-01"]


def test_without_the_enrolment_key_there_is_no_next_roster(tmp_path: Path) -> None:
    announced = announcements(made(tmp_path))
    (tmp_path / "enrolment.key").unlink()
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"enrolment\.key"):
        enrol_next(tmp_path, sized, announced)
    assert files(tmp_path) == before


def test_an_enrolment_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    announced = announcements(made(tmp_path))
    (tmp_path / "enrolment.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        enrol_next(tmp_path, sized, announced)


def test_a_plain_task_is_told_what_to_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fed.toml"
    plain = sample("fed.toml").replace('scheme = "seedmask"', 'scheme = "none"')
    file.write_text(plain, encoding="utf-8")
    assert main(["enrol", "new", str(tmp_path / "e"), "-c", str(file), *every_device()]) == 2
    assert "secure.scheme" in capsys.readouterr().err


def test_devices_can_be_listed_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "devices.txt"
    listed.write_text("# the pumps\n" + "\n".join(f"{name}  # here" for name in NAMES[1:]) + "\n\n")
    words = ["--devices", str(listed), "--device", NAMES[0], "-c", str(config_file(tmp_path))]
    assert main(["enrol", "new", str(tmp_path / "e"), *words, "--epoch", "5"]) == 0
    roster = newest_roster(tmp_path / "e")
    assert tuple(member.device for member in roster.members) == NAMES
    assert roster.epoch == 5
    assert "12 (N)" in capsys.readouterr().out


def test_a_roster_is_shown_once_it_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled = made(tmp_path)
    assert main(["enrol", "show", str(enrolled.roster_file)]) == 0
    said = capsys.readouterr().out
    assert enrolled.roster.hash.hex() in said
    for member in enrolled.roster.members:
        assert member.device in said
        assert member.identity.hex()[:16] in said
    data = bytearray(enrolled.roster_file.read_bytes())
    data[20] ^= 1
    enrolled.roster_file.write_bytes(data)
    assert main(["enrol", "show", str(enrolled.roster_file)]) == 2
    assert main(["enrol", "show", str(enrolled.roster_file), "--key", str(tmp_path / "no")]) == 2


@pytest.mark.parametrize("verb", ["new", "next", "collect", "show"])
def test_every_command_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enrol", verb, "--help"]) == 0
    assert "Usage: fedbus enrol" in capsys.readouterr().out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.text() | JSON.map(json.dumps))
def test_garbage_for_announcements_is_refused_and_raises_nothing_else(text: str) -> None:
    try:
        parse_announced(text)
    except ConfigError:
        return
    assert json.loads(text) == {}


@given(
    st.fixed_dictionaries({"epoch": JSON, "key": JSON | st.just("00" * 32), "endorsement": JSON})
)
def test_a_births_next_epoch_of_anything_is_read_or_ignored(value: dict[str, Any]) -> None:
    assert read_announcement(value) is None  # no text of at most 5 letters is a signature


def test_announcements_survive_their_text() -> None:
    announced = {name: announced_by(bytes(32), 2) for name in NAMES}
    assert parse_announced(announced_text(announced)) == announced


def birth(announcement: object) -> bytes:
    return json.dumps({"boot": "1", "next_epoch": announcement}).encode()


def spoken(announcement: Announcement) -> object:
    return json.loads(announced_text({"x": announcement}))["x"]


def test_what_is_no_birth_of_a_device_is_not_collected() -> None:
    collector = Collector(BrokerConfig(), TOPICS)
    said = birth(spoken(announced_by(bytes(32), 2)))
    for topic, payload in [
        (TOPICS.info("a"), b""),
        (TOPICS.info("a"), b"\xff"),
        (TOPICS.info("a"), b"[]"),
        (TOPICS.info("a"), b'{"next_epoch": 1}'),
        (TOPICS.info("a"), b"[" * 100_000),
        (TOPICS.state("a"), said),
        ("fedbus/1/other/dev/a/info", said),
    ]:
        collector.handle(Message(topic, payload, retain=True, token=0))
    assert not collector.announced
    collector.handle(Message(TOPICS.info("a"), said, retain=True, token=0))
    assert collector.missing(["a", "b"], 2) == ["b"]
    assert collector.missing(["a"], 3) == ["a"]


@pytest.mark.broker
def test_from_births_to_the_next_roster(
    tmp_path: Path,
    broker: Mosquitto,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "enrolment", tmp_path / "keys.json"
    assert (
        main(["enrol", "new", str(folder), "-c", str(config_file(tmp_path)), *every_device()]) == 0
    )
    first = newest_roster(folder)
    config = as_told(tmp_path, folder, port=broker.port)
    announced = announced_from(load_config(config), first, folder)
    command = ["enrol", "collect", "-c", str(config), "--out"]
    with BusClient(broker.port, "devices") as bus:
        for device, announcement in list(announced.items())[:-1]:
            bus.publish(TOPICS.info(device), birth(spoken(announcement)), retain=True)
        bus.publish(TOPICS.info("stranger"), birth(spoken(announced_by(bytes(32), 2))), retain=True)
        bus.settle()
        short = tmp_path / "short.json"
        assert main([*command, str(short), "--deadline", "1"]) == 1
        assert "missing: pump-12" in capsys.readouterr().out
        assert len(parse_announced(short.read_text(encoding="utf-8"))) == 11
        last = birth(spoken(announced["pump-12"]))
        bus.publish(TOPICS.info("pump-12"), last, retain=True)
        bus.settle()
        assert main([*command, str(out)]) == 0
        assert main([*command, str(out)]) == 2  # written already
    assert parse_announced(out.read_text(encoding="utf-8")) == announced
    assert main(["enrol", "next", str(folder), "-c", str(config), "--keys", str(out)]) == 0
    assert newest_roster(folder).epoch == 2


def announced_from(
    config: AggregatorConfig, roster: Roster, folder: Path
) -> dict[str, Announcement]:
    announced = {}
    for member in roster.members:
        path = folder / "devices" / f"{member.device}.json"
        own = read_keys(path, task=config.task.task, device=member.device)
        announced[member.device] = announced_by(own.identity, 2)
    return announced


def test_a_broker_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "enrolment", free_port()
    assert (
        main(["enrol", "new", str(folder), "-c", str(config_file(tmp_path)), *every_device()]) == 0
    )
    config = as_told(tmp_path, folder, port=port)
    out = tmp_path / "keys.json"
    command = ["enrol", "collect", "-c", str(config), "--out", str(out), "--deadline", "0.3"]
    assert main(command) == 2
    assert str(port) in capsys.readouterr().err
    assert not out.exists()
