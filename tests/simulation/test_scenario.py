"""Reading scenario files: what they say, and what is wrong with them, by file, line and key."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.config import FLEET_TABLES
from protocol.errors import ConfigError
from simulator.data import FOLDER_VARIABLE
from simulator.profiles import PROFILES
from simulator.scenario import load_scenario
from tests.simulation.scenario_files import SMALL, loaded, write


def test_links_have_the_profile_they_name_and_what_stands_beside_it(tmp_path: Path) -> None:
    fast, slow = loaded(tmp_path).classes
    assert fast.link == PROFILES["wifi"]
    assert slow.link.up_bps == PROFILES["lte_m"].up_bps
    assert slow.link.loss == 0.02


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_named(tmp_path: Path, name: str) -> None:
    scenario = loaded(tmp_path, ('link = "wifi"', f'link = "{name}"'))
    assert scenario.classes[0].link == PROFILES[name]


def test_shares_add_up_to_the_devices_there_are(tmp_path: Path) -> None:
    scenario = loaded(
        tmp_path,
        ("duration_s = 30", "duration_s = 30\ndevices = 7"),
        ("count = 4", "share = 0.5"),
        ("count = 2", "share = 0.5"),
    )
    assert sorted(scenario.counts) == [3, 4]


WRONG = [
    ("duration_s = 30", "duration_s = -1", 2, "duration_s must be from"),
    ("duration_s = 30", "duraton_s = 30", 2, "duraton_s: unknown key; did you mean 'duration_s'?"),
    ('source = "digits"', 'source = "mnist"', 5, "data: source 'mnist': use digits"),
    ('split = "dirichlet"', 'split = "speed"', 4, 'slow_labels: split = "speed" needs'),
    ("goal = 3", "gaol = 3", 18, "task.buffered.gaol: unknown key; did you mean 'goal'?"),
    ("goal = 3", "goal = 0", 18, "task.buffered: goal must be"),
    ("units = 10", "units = 9", 10, "task.model: does not fit the data"),
    ("softmax_cross_entropy", "mse", 13, "task: model: loss: 'mse' is none of"),
    ("input = [64]", "input = [63]", 11, "task.model.input: "),
    ("count = 4", "count = 0", 22, "class[0]: count: an empty class"),
    ("count = 4", "count = 4\nmemory_budget = '9 KiB'", 23, "needs at least"),
    ("count = 4", "count = 400", 4, "data.min_samples: 1438 rows are too few for 402 devices"),
    ('name = "slow"', 'name = "fast"', 27, "class[1].name: two are called 'fast'"),
    ("count = 4", "share = 0.9", 22, "class[0].share: of how many? set devices"),
    ("duration_s = 30", "devices = 9\nduration_s = 30", 2, "devices: 9, but the classes make 6"),
    ("units = 10", "units = 10, unit = 3", 12, "task: model.layers[0] (dense).unit: unknown key"),
    ('type = "dense"', 'type = "dens"', 12, "task: model.layers[0].type: 'dens' is none of"),
    ("[task.buffered]", "inputs = 3\n[task.buffered]", 17, "task.training.inputs: unknown key"),
    ("input = [64]", "input = [64]\ninputs = 3", 12, "task: model.inputs: unknown key"),
    ("check_in_s = 5", "mode = 'rounds'\nrounds.size = 14", 10, "task.rounds: 7 updates end a"),
    ("[task.buffered]", "[secure]\nscheme = 'seedmask'\n[task.buffered]", 17, "secure: "),
    ("[[class]]", "[[server.restart]]\nat_s = 1\nforget = true\n[[class]]", 22, ".forget: unknown"),
    ('link = "wifi"', 'link = { profile = ["lte"] }', 24, "class[0].link: ['lte']: use fibre"),
    ('link = "wifi"', 'availability = { kind = "diurnal", period_s = 1e-9 }', 24, "period_s must"),
    ("[[class]]", '[drift]\nat_s = 1\nkind = "new_labels"\nlabels = [77]\n[[class]]', 23, "77"),
    (
        "[[class]]",
        f'[drift]\nat_s = 1\nkind = "new_labels"\nlabels = {[*range(10)]}\n[[class]]',
        23,
        "drift.labels: before them there would be no row",
    ),
    ("count = 4", "count = 10000001", 22, "from 0 to 10000000, not 10000001"),
    ("duration_s = 30", "duration_s = 1e12", 2, "from 0.001 to 315360000, not 1000000000000"),
    ("spread = 0.5", "spread = 1.0000001", 23, "is at most 1, not 1.0000001"),
    (
        "[task.buffered]",
        "[bandwidth]\ndifferences = 'x'\n[task.buffered]",
        18,
        "differences: codec",
    ),
    ("[[class]]", "[dry]\n[[class]]", 4, "data: nothing is learned in a [dry] scenario"),
    ("[[class]]", "[[reboot]]\nat_s = 31\n[[class]]", 21, "reboot[0].at_s: 31 s is not before"),
    ("[[class]]", "[[broker.restart]]\nat_s = 30\n[[class]]", 21, "broker.restart[0].at_s: 30 s"),
    ("[[class]]", "[[server.restart]]\nat_s = 99\n[[class]]", 21, "server.restart[0].at_s: 99 s"),
    ("[[class]]", '[drift]\nat_s = 30\nkind = "mirrored"\n[[class]]', 21, "drift.at_s: 30 s"),
    ("slow = true", "joins_at_s = 40", 29, "class[1].joins_at_s: 40 s is not before the end"),
    ("[[class]]", "[[reboot]]\nat_s = 1\nshare = 0\n[[class]]", 22, "reboot[0].share: 0 of 6"),
    ("[[class]]", "[[reboot]]\nat_s = 1\nshare = 0.08\n[[class]]", 22, "not even one"),
    (
        "[[class]]",
        "[selection.sites.plant]\ndevices = ['plant-*']\n[[class]]",
        21,
        "21: selection.sites.plant.devices: no device",
    ),
    (
        "[[class]]",
        "[selection.sites]\na.devices = ['*']\nb.devices = ['slow-1']\n[[class]]",
        22,
        "22: selection.sites.b.devices: no device",
    ),
    ("slow = true", "updates_per_wake = 1", 29, "class[1]: updates_per_wake: who sleeps after"),
    ("slow = true", "updates_per_wake = -1", 29, "class[1]: updates_per_wake must be from 0"),
    ("seconds = 6", "seconds = 0", 30, "class[1].training: seconds: set either"),
    ("spread = 0.5", "spread = 1.5", 23, "class[0].training: spread of a uniform law"),
    ('link = "wifi"', 'link = "wlan"', 24, "class[0].link: 'wlan': use fibre, "),
    ("loss = 0.02", "loss = 1.0", 31, "class[1].link: loss must be"),
    ("loss = 0.02", "outages = [{ for_s = -1 }]", 31, "class[1].link.outages[0]: for_s"),
    ("slow = true", 'attack = "shout"', 29, "class[1]: attack 'shout': use sign_flip"),
    ("slow = true", 'availability = "now"', 29, "class[1].availability: kind 'now'"),
    (
        "slow = true",
        "availability = { kind = 'trace', file = 'no.csv' }",
        29,
        "no.csv: No such file",
    ),
    ("[task.buffered]", "[bandwidth]\nuplink_bytes = 3\n[task.buffered]", 18, ": bandwidth.uplink"),
    (
        "[task.buffered]",
        "[selection]\nmax_outstanding_bytes = 3\n[task.buffered]",
        18,
        "18: selection.max_outstanding_bytes: the updates",
    ),
    (
        "[task.buffered]",
        "[fairness]\nweights = 'stale_weight'\n[task.staleness]\nrule = 'hinge'\n[task.buffered]",
        18,
        "18: fairness.weights = ",
    ),
    (
        "[task.buffered]",
        "[robust]\ngroup = 3\n[secure]\nscheme = 'none'\n[task.buffered]",
        18,
        "18: secure: robust.group: groups are for masked",
    ),
    ("[task.buffered]", "[fairness]\nx = 1\n[task.buffered]", 18, "fairness.x: unknown key"),
    ("[task.buffered]", "[secure]\n[task.buffered]", 17, "secure.scheme: say"),
    ("[[class]]", "[[reboot]]\nat_s = 1\nshare = 2\n[[class]]", 22, "reboot[0]: share must be"),
    ("[[class]]", '[drift]\nat_s = 1\nkind = "x"\n[[class]]', 22, "drift: kind 'x': use"),
]


@pytest.mark.parametrize(("old", "new", "line", "problem"), WRONG, ids=lambda each: str(each)[:40])
def test_a_mistake_is_told_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, (old, new))
    assert f"small.toml:{line}: " in str(raised.value)
    assert problem in str(raised.value)


def test_drift_is_refused_where_nothing_is_learned(tmp_path: Path) -> None:
    data = '[data]\nsource = "digits"\nsplit = "dirichlet"\n'
    dry = "[dry]\n[drift]\nat_s = 1\nkind = 'mirrored'\n"
    loaded(tmp_path, (data, "[dry]\n"))
    with pytest.raises(ConfigError, match="toml:5: drift: nothing is learned"):
        loaded(tmp_path, (data, dry))


def test_sites_of_devices_that_are_there_are_accepted(tmp_path: Path) -> None:
    site = "[selection.sites.plant]\ndevices = ['none-*', 'slow-1']\nconcurrency = 1\n[[class]]"
    assert loaded(tmp_path, ("[[class]]", site)).task.selection.site_of("slow-1") == "plant"


@pytest.mark.parametrize("key", ["monitor", "folder", "classes"])
def test_the_keys_that_are_known_are_told_as_they_are_written(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"toml:2: {key}: unknown key") as raised:
        loaded(tmp_path, ("duration_s = 30", f"{key} = 1\nduration_s = 30"))
    told = str(raised.value).partition("; ")[2]
    if key == "classes":
        assert told == "did you mean 'class'?"
        return
    known = told.removeprefix("known are ").split(", ")
    assert {"class", "task", "broker", *FLEET_TABLES} <= set(known)
    assert not {"classes", "folder"} & set(known)


@pytest.mark.parametrize("seed", range(4))
def test_a_model_with_too_few_outputs_is_refused_whatever_the_seed(
    tmp_path: Path, seed: int
) -> None:
    with pytest.raises(
        ConfigError, match="labels run from 0 to 9, but the model knows classes 0 to 8"
    ):
        loaded(tmp_path, ("units = 10", "units = 9"), ("duration_s", f"seed = {seed}\nduration_s"))


def test_classes_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    text = "class = [1]\n" + SMALL[: SMALL.index("[[class]]")]
    with pytest.raises(ConfigError, match=r"toml:1: class\[0\]: expected a table, not 1"):
        load_scenario(write(tmp_path, text))


def test_shares_make_all_devices_or_are_refused(tmp_path: Path) -> None:
    devices = ("duration_s = 30", "duration_s = 30\ndevices = 20")
    for fast, slow, problem in (("0.3", "0.6", "18"), ("0.9", "0.9", "36"), ("0.25", "0.7499", "")):
        shares = ("count = 4", f"share = {fast}"), ("count = 2", f"share = {slow}")
        with pytest.raises(
            ConfigError, match=f"toml:3: devices: 20, but the classes make {problem}"
        ):
            loaded(tmp_path, devices, *shares)
    mixed = loaded(tmp_path, devices, ("count = 4", "share = 0.9"))
    assert mixed.counts == (18, 2)


def test_a_fleet_without_devices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add a \\[\\[class\\]\\]"):
        load_scenario(write(tmp_path, SMALL[: SMALL.index("[[class]]")]))


# --- data ----------------------------------------------------------------------------------------


def _with_file(folder: Path, name: str, *keys: str) -> Path:
    more = "\n".join([f'file = "{name}"', *keys])
    return write(folder, SMALL.replace('source = "digits"\nsplit = "dirichlet"', more))


def test_data_lie_beside_the_scenario_or_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data" / "a.npz",
        pixels=rng.integers(0, 255, (200, 8, 8), np.uint8),
        digit=rng.integers(0, 10, 200),
        person=np.arange(200) % 8 - 1,
        unseen=np.arange(200) < 40,
    )
    keys = ['x = "pixels"', 'y = "digit"', 'client = "person"', 'test = "unseen"', "scale = 255"]
    near = load_scenario(_with_file(tmp_path, "data/a.npz", *keys, 'split = "clients"'))
    assert near.data_set().x.max() <= 1.0
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "data"))
    far = load_scenario(_with_file(tmp_path, "${FEDBUS_DATA}/a.npz", *keys))
    np.testing.assert_array_equal(far.data_set().x, near.data_set().x)
    client = far.data_set().client
    assert client is not None
    assert set(client.tolist()) == {-1, 0, 1, 2, 3, 4, 5, 6}


def test_what_needs_labels_or_images_is_refused_without_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, person = rng.normal(size=(90, 10)), np.arange(90) % 9
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(90, 66)), y=y, person=person)
    path = _with_file(tmp_path, "a.npz", 'client = "person"', 'split = "clients"')
    text = path.read_text(encoding="utf-8").replace("[64]", "[66]")
    text = text.replace("softmax_cross_entropy", "mean_squared_error")
    load_scenario(write(tmp_path, text))
    for old, new, problem in (
        ('split = "clients"', "", "data.split: y holds no class labels"),
        ("slow = true", 'attack = "label_flip"', "class[1].attack: y holds no class"),
        ("[[class]]", '[drift]\nat_s = 1\nkind = "mirrored"\n[[class]]', "no square images"),
        ("[[class]]", '[drift]\nat_s = 1\nkind = "rotated_labels"\n[[class]]', "drift.kind: y"),
    ):
        with pytest.raises(ConfigError) as raised:
            load_scenario(write(tmp_path, text.replace(old, new, 1)))
        assert problem in str(raised.value)


def test_missing_data_are_told_with_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"toml:5: data.file: .*set FEDBUS_DATA to the folder"):
        load_scenario(_with_file(tmp_path, "${FEDBUS_DATA}/a.npz"))
    with pytest.raises(ConfigError, match=r"toml:5: data.file: no file .*docs/simulation.md"):
        load_scenario(_with_file(tmp_path, "a.npz"))
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 64)), y=np.zeros(8, np.int64))
    with pytest.raises(ConfigError, match=r"toml:4: data.y: .*as many rows"):
        load_scenario(_with_file(tmp_path, "a.npz"))
    with pytest.raises(ConfigError, match=r"toml:6: data.x: .*no array 'z'"):
        load_scenario(_with_file(tmp_path, "a.npz", 'x = "z"'))
    (tmp_path / "a.npz").write_bytes(b"PK broken")
    with pytest.raises(ConfigError, match=r"toml:5: data.file: .*cannot be read"):
        load_scenario(_with_file(tmp_path, "a.npz", "held_out = 0.3"))
