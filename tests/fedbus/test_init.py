"""`fedbus init`: samples that work, and that name every key with its default."""

import re
import stat
import tomllib
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509

from aggregator.config import AggregatorConfig, with_fleet
from aggregator.config import load_config as load_aggregator
from broker_config.authority import read_certificate
from device_sdk.belongings import own_keys
from device_sdk.config import DeviceConfig
from device_sdk.config import load_config as load_device
from device_sdk.engine.training import TrainingSettings
from fedbus.__main__ import main
from fedbus.workplace import SAMPLES, sample
from protocol.settings import build
from tests.fedbus.test_configuration_docs import DEVICES_OWN, SETTINGS, plain_fields, sections
from transport import Will

#: Commented out with an example, as their default is to leave them out.
WITHOUT_DEFAULT = {"max_steps", "clip_norm", "schedule_steps", "trainable", "trainable_last"}


def uncommented(name: str) -> dict[str, object]:
    """The sample with every commented key in force."""
    return tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", sample(name), flags=re.MULTILINE))


def test_what_init_writes_passes_every_check_and_needs_no_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "new", "--task", "heat"]) == 0
    assert main(["aggregator", "check", "--config", "new/fed.toml"]) == 0
    assert "masked by seedmask (1 roster)" in capsys.readouterr().out
    for name in ("device-1", "device-2", "device-3"):
        config = load_device(Path("new/enrolment/carry") / name / "device.toml")
        assert (config.task, config.device) == ("heat", name)
        assert own_keys(config) is not None
        config.broker.settings("me", username=name, will=Will("w", b""), window=1, queue=1)


NINE = [word for n in range(9) for word in ("--device", f"d-{n}")]


def test_it_says_what_one_attacker_can_do_and_what_would_bound_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "default")]) == 0
    said = capsys.readouterr().out
    assert "one attacker can spoil a sum; `fedbus init --group 3`, with 9 devices or more" in said
    assert main(["init", str(tmp_path / "rounds"), *NINE, "--scheme", "pairwise"]) == 0
    assert "`fedbus init --scheme seedmask --group " in capsys.readouterr().out
    assert main(["init", str(tmp_path / "grouped"), *NINE, "--group", "3"]) == 0
    assert "not bounded" not in capsys.readouterr().out


def test_groups_come_with_all_that_they_need(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "new"), *NINE, "--group", "3"]) == 0
    task = load_aggregator(tmp_path / "new" / "fed.toml").task
    assert (task.robust.group, task.robust.attackers) == (3, 0.112)
    assert (task.buffered.goal, task.buffered.min_contributors) == (9, 9)
    assert main(["aggregator", "check", "--config", str(tmp_path / "new" / "fed.toml")]) == 0


def test_pairwise_comes_with_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "fed.toml"
    assert main(["init", str(tmp_path / "new"), *NINE, "--scheme", "pairwise"]) == 0
    assert main(["aggregator", "check", "--config", str(file)]) == 0
    assert "(rounds), masked by pairwise (1 roster)" in capsys.readouterr().out
    task = load_aggregator(file).task
    assert (task.rounds.size, task.rounds.quorum) == (9, 6)
    asked = ["--scheme", "pairwise", "--set", "task.mode=buffered"]
    assert main(["init", str(tmp_path / "other"), *NINE, *asked]) == 2
    assert "works in rounds only" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["seedmask", "none"])
def test_privacy_comes_with_all_that_it_needs(scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "fed.toml"
    asked = ["--scheme", scheme, "--epsilon", "4", "--updates", "50"]
    assert main(["init", str(tmp_path / "new"), *asked, "--set", "privacy.clip=0.5"]) == 0
    privacy = load_aggregator(file).task.privacy
    assert (privacy.epsilon, privacy.most_updates, privacy.clip) == (4.0, 50, 0.5)
    assert privacy.is_central == (scheme == "none")
    assert main(["aggregator", "check", "--config", str(file)]) == 0


def test_settings_signed_for_devices_change_by_a_new_roster_or_a_new_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, file = tmp_path / "old", tmp_path / "old" / "fed.toml"
    assert main(["init", str(old), *NINE]) == 0
    np.savez(old / "held_out.npz", x=np.zeros((8, 64), np.float32), y=np.zeros(8, np.int64))
    text = file.read_text().replace("units = 32", "units = 16").replace("# group = 0", "group=3")
    text = text.replace("min_contributors = 3 ", "min_contributors = 9 ")
    text = text.replace("# attackers = 0.2 ", "attackers = 0.1 ").replace('# file = ""', 'file = "')
    file.write_text(text.replace('file = "  ', 'file = "held_out.npz"  '))
    assert main(["aggregator", "check", "--config", str(file)]) == 2
    told = capsys.readouterr().err
    assert "= 2411 in the roster, 1211 by the settings; robust.group = 0 in the roster, 3" in told
    commands = [line.split()[1:4] for line in told.splitlines() if line.startswith("  ")]
    assert [" ".join(each) for each in commands] == [
        *("fedbus enrol collect", "fedbus enrol next", "fedbus aggregator run"),
    ]
    assert f"fedbus enrol next {old / 'enrolment'} -c {file} --keys" in told
    assert main(["init", str(tmp_path / "new"), *NINE, "--from", str(file), "--task", "heat"]) == 0
    assert main(["aggregator", "check", "--config", str(tmp_path / "new" / "fed.toml")]) == 0
    assert "task heat" in capsys.readouterr().out
    made = load_aggregator(tmp_path / "new" / "fed.toml")
    assert (made.task.robust.group, made.task.robust.attackers) == (3, 0.1)
    assert made.evaluation.file == str(old / "held_out.npz")


def test_settings_that_lack_a_line_get_one(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[task]\ntask = "own"\nprefix = "a/b"\n'
        '[task.model]\ninput = [4]\nloss = "mean_squared_error"\n'
        'layers = [{ type = "dense", units = 1 }]\n'
    )
    assert main(["init", str(tmp_path / "new"), "--from", str(file)]) == 0
    made = load_aggregator(tmp_path / "new" / "fed.toml")
    assert (made.task.task, made.secure.scheme, made.task.buffered.goal) == ("own", "seedmask", 3)
    assert "a/b/+/plan" in (tmp_path / "new" / "broker" / "acl").read_text()
    assert load_device(tmp_path / "new" / "device.toml").prefix == "a/b"


def test_a_secret_is_in_one_place_and_its_owners_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    said = "".join(capsys.readouterr())
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    secrets = [path for path in files if path.suffix == ".key" or path.name == "keys.json"]
    assert len(secrets) == 2 + 3 * 2 + 4  # operator, devices; CA, broker, aggregator, monitor
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert len([each for each in files.values() if each == files[path]]) == 1, path
        assert files[path].decode() not in said
    for private in ("enrolment", "aggregator"):
        assert stat.S_IMODE((tmp_path / "new" / private).stat().st_mode) == 0o700
    theirs = {path for path in files if "enrolment" in path.parts and "carry" not in path.parts}
    operators = [files[path] for path in secrets if path in theirs]
    elsewhere = b"".join(data for path, data in files.items() if path not in theirs)
    assert operators
    assert not [secret for secret in operators if secret.strip() in elsewhere]


def test_hosts_decide_where_the_broker_listens_and_what_it_is_certified_for(
    tmp_path: Path,
) -> None:
    assert main(["init", str(tmp_path / "here")]) == 0
    assert main(["init", str(tmp_path / "out"), "--host", "b.example", "--host", "10.0.0.7"]) == 0
    here = (tmp_path / "here" / "broker" / "mosquitto.conf").read_text()
    out = (tmp_path / "out" / "broker" / "mosquitto.conf").read_text()
    assert "listener 8883 127.0.0.1\n" in here
    assert "listener 8883\n" in out
    assert "listener 9001" not in here + out
    named = read_certificate(tmp_path / "out" / "broker" / "broker.crt").extensions
    hosts = named.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["b.example", "localhost"]
    assert [str(each) for each in hosts.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.7",
        "127.0.0.1",
    ]
    assert load_aggregator(tmp_path / "out" / "fed.toml").broker.host == "b.example"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--device", "a", "--device", "b"], "fewer than 3"),
        (["--device", "a", "--device", "b", "--device", "a"], "twice"),
        (["--device", "monitor"], "service"),
        (["--task", "Two words"], "a-z"),
        (["--host", "ü"], "ASCII"),
        (["--host", "http://b.example"], "--host http://b.example: a name or an address alone"),
        (["--host", "b.example:8883"], "--port says where"),
        (["--port", "8884"], "must differ"),
        (["--group", "3"], "9 devices at least; there are 3"),
        (["--epsilon", "8"], "--epsilon and --updates go together"),
        (["--set", "broker.host=x"], "see --host"),
        (["--set", "robust.group"], "say KEY=VALUE"),
        (["--set", "robust.grop=3"], "did you mean 'group'"),
        (["--set", "task.model.layers=[]"], "several lines"),
        (["--set", "selection.sites={}"], "stand in a file"),
        (["--from", "nowhere.toml"], "--from nowhere.toml: No such file"),
        ([word for n in range(129) for word in ("--device", f"d-{n}")], "3 to 128"),
    ],
)
def test_what_cannot_be_is_refused(
    given: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "brand" / "new"), *given]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays_when_init_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["init", str(tmp_path / "mine"), "--set", "robust.attackers=9"]) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_without_masks_one_device_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--scheme", "none", "--device", "a"]) == 0
    assert main(["aggregator", "check", "--config", "fed.toml"]) == 0
    said = capsys.readouterr().out
    assert "2410 params" in said
    assert "every update in sight" in said


def test_whether_updates_are_masked_must_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(sample("fed.toml").replace('scheme = "seedmask"', ""))
    assert main(["aggregator", "check", "--config", str(file)]) == 2
    assert "secure.scheme" in capsys.readouterr().err


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_overwritten(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    assert main(["init", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_what_is_commented_out_is_the_default() -> None:
    plain = build(AggregatorConfig, with_fleet(tomllib.loads(sample("fed.toml"))))
    spelled = uncommented("fed.toml")
    task = spelled["task"]
    assert isinstance(task, dict)
    training = {key: value for key, value in task["training"].items() if key not in WITHOUT_DEFAULT}
    assert build(TrainingSettings, training) == TrainingSettings()
    task["training"] = {}
    assert task["strategy"].pop("options") == {"learning_rate": 1.0}
    assert build(AggregatorConfig, with_fleet(spelled)) == plain
    device = uncommented("device.toml")
    assert build(DeviceConfig, device) == build(DeviceConfig, tomllib.loads(sample("device.toml")))


def test_every_key_stands_in_its_sample() -> None:
    for section in sections():
        if section == "task.model":
            continue
        own = section.startswith(DEVICES_OWN)
        for name in (
            ["device.toml"]
            if own
            else ["fed.toml"]
            if section in {"secure", "identity"}
            else SAMPLES
        ):
            found: object = uncommented(name)
            path = section.removeprefix(DEVICES_OWN)
            for part in [] if section.endswith(".toml") else path.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if section.endswith(".toml") and section != name:
                continue
            if isinstance(found, dict):
                assert plain_fields(SETTINGS[section]).keys() <= found.keys(), (name, section)
