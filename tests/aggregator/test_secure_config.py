"""What is refused when the configuration is read: whatever secure aggregation could not keep."""

from pathlib import Path
from typing import Any

import pytest

from aggregator.config import (
    AggregatorConfig,
    IdentityConfig,
    load_config,
    load_enrolment,
    read_rosters,
)
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import Enrolment, RosterMismatchError, SecureConfig
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from protocol.codec import pack
from protocol.errors import ConfigError
from protocol.secagg.keys import identity_public
from protocol.secagg.parameters import Parameters
from tests.support.desk import task_config
from tests.support.secure_desk import NAMES, enrol, secure_settings, secure_task

SIZE = 6


def refused(secure: dict[str, Any], task: dict[str, Any] | None = None) -> str:
    """Return why settings are refused when the file is read."""
    with pytest.raises(ConfigError) as caught:
        secure_settings(**secure).check(secure_task(**(task or {})))
    return str(caught.value)


def unfit(secure: dict[str, Any], num_devices: int = 8, task: dict[str, Any] | None = None) -> str:
    """Return why no cohort of so many devices can be enrolled with these settings."""
    with pytest.raises(ConfigError) as caught:
        parameters(secure, num_devices, task)
    return str(caught.value)


def parameters(
    secure: dict[str, Any], num_devices: int = 8, task: dict[str, Any] | None = None
) -> Parameters:
    return secure_settings(**secure).parameters(secure_task(**(task or {})), num_devices, SIZE)


# --- what is refused without a cohort ----------------------------------------------------------


def test_good_settings_pass() -> None:
    for scheme in ("seedmask", "lightsecagg"):
        secure_settings(scheme=scheme).check(secure_task())
    secure_settings(scheme="none").check(task_config())


def test_a_scheme_must_be_said() -> None:
    assert "fedbus enrol" in refused({"scheme": ""})


@pytest.mark.parametrize("scheme", ["Seedmask", "secagg", "plain"])
def test_an_unknown_scheme_is_refused(scheme: str) -> None:
    with pytest.raises(ConfigError, match="use seedmask, lightsecagg, pairwise, none"):
        SecureConfig(scheme=scheme)


def test_pairwise_masks_need_rounds() -> None:
    assert 'set mode = "rounds", or use seedmask' in refused({"scheme": "pairwise"})


def test_the_roster_says_how_devices_weigh_late_updates() -> None:
    for staleness, name in (
        (StalenessConfig(), "constant"),
        (StalenessConfig(rule="constant"), "constant"),
        (StalenessConfig(rule="polynomial", exponent=0.25), "polynomial-0.25"),
        (StalenessConfig(rule="hinge", slope=0.1, grace=2), "hinge-0.1-2"),
    ):
        task, secure = secure_task(staleness=staleness), secure_settings()
        secure.check(task)
        assert secure.parameters(task, 12, 100).staleness == name


def test_a_roster_for_another_staleness_rule_is_refused() -> None:
    secure = secure_settings()
    made = secure.parameters(secure_task(staleness=StalenessConfig(rule="polynomial")), 12, 100)
    with pytest.raises(
        RosterMismatchError, match=r"staleness = polynomial-0\.5 in the roster, constant by the"
    ):
        secure.check_roster(secure_task(), made, 100)


@pytest.mark.parametrize(
    "staleness",
    [
        StalenessConfig(rule="polynomial", exponent=1.0),
        StalenessConfig(rule="hinge", slope=2.0, grace=1),
    ],
)
def test_no_device_may_nearly_vanish_for_being_late(staleness: StalenessConfig) -> None:
    assert "none weighs less than 0.125" in refused({}, {"staleness": staleness})
    secure_settings().check(secure_task(staleness=staleness, max_staleness=3))


def test_pairwise_has_no_late_updates_to_weigh() -> None:
    rounds = Rounds(size=12, quorum=12)
    task = secure_task(mode="rounds", rounds=rounds, staleness=StalenessConfig(rule="polynomial"))
    with pytest.raises(ConfigError, match="in rounds, as pairwise needs them, nobody is late"):
        secure_settings(scheme="pairwise").parameters(task, 12, 100)


def test_the_mean_of_all_goals_needs_equal_weights() -> None:
    with pytest.raises(ConfigError, match="set weigh_by_samples = false"):
        secure_task(normalise="goal", weigh_by_samples=True)
    secure_settings().check(secure_task(normalise="goal"))


@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
def test_a_buffer_of_too_few_is_refused(scheme: str) -> None:
    buffered = {"buffered": Buffered(goal=4, min_contributors=2)}
    assert "raise buffered.min_contributors" in refused({"scheme": scheme}, buffered)
    rounds = {"mode": "rounds", "rounds": Rounds(size=4)}
    assert "raise rounds.quorum" in refused({"scheme": scheme}, rounds)
    four = {"buffered": Buffered(goal=4, min_contributors=3)}
    assert "fewer than 4 devices" in refused({"scheme": scheme, "min_contributors": 4}, four)


@pytest.mark.parametrize(
    "secure",
    [
        {"support": "topk-0.1"},
        {"support": "dense-0.5"},
        {"support": "plan"},
        {"support": "randk-1.5"},
        {"support": "randk-0"},
        {"support": "plan-0.1/float32"},
        {"support": "plan-0.1/calibrated"},
        {"support": ""},
        {"bits": 7},
        {"bits": 25},
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"support_every": 0},
        {"samples_cap": 0},
        {"epoch_s": 9},
        {"spare_wait_s": -1.0},
        {"malicious": 129},
        {"noise": -2},
        {"answers": 129},
        {"min_contributors": -1},
    ],
)
def test_settings_out_of_range_are_refused(secure: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        secure_settings(**secure)


def test_a_calibrated_task_is_unweighted() -> None:
    with pytest.raises(ConfigError, match="right for a plain sum only"):
        secure_task(strategy=StrategyConfig(name="calibrated"), weigh_by_samples=True)


# --- what is refused of a cohort ---------------------------------------------------------------


def test_the_defaults_fit_every_size_of_a_cohort() -> None:
    for num_devices in range(3, 129):
        whole = {"buffered": Buffered(goal=num_devices, min_contributors=num_devices)}
        given = parameters({"bits": 24}, num_devices, whole)
        t, noise, answers = given.num_malicious, given.num_noise, given.num_answers
        assert 2 * (noise + 1) > num_devices + t
        assert noise < answers <= num_devices
        assert t + 2 <= given.min_contributors <= num_devices


def test_a_buffer_that_could_close_with_less_than_a_large_cohort_asks_for_is_refused() -> None:
    """Its tenth may be malicious: more than the three that can be said without a cohort."""
    task = secure_task(buffered=Buffered(goal=10, min_contributors=3))
    settings = secure_settings()
    settings.check(task)
    given = settings.parameters(task, 40, SIZE)
    assert given.min_contributors == 6
    with pytest.raises(ConfigError, match="3 updates could be closed, the roster asks for 6"):
        settings.check_roster(task, given, SIZE)


@pytest.mark.parametrize(
    ("secure", "message"),
    [
        ({"noise": 3}, "lets two halves of the cohort answer for different sums"),
        ({"malicious": 2}, "lets two halves|T\\) = 4"),
        ({"noise": 6, "answers": 6}, "must be above noise"),
        ({"answers": 4}, "must be above noise"),
        ({"answers": 9}, "at most N = 8"),
        ({"malicious": 3, "noise": 5, "answers": 7}, "goal must be from min_contributors = 5"),
        ({"min_contributors": 2}, "shows one device's update"),
        ({"min_contributors": 5}, "goal must be from min_contributors = 5"),
    ],
)
def test_numbers_that_break_an_invariant_are_refused(secure: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameters(secure)


def test_a_goal_beyond_the_cohort_is_refused() -> None:
    task = {"buffered": Buffered(goal=9, min_contributors=3)}
    assert "to the cohort's 8 devices, not 9" in unfit({}, task=task)


@pytest.mark.parametrize("num_devices", [1, 2, 129])
def test_a_cohort_too_small_or_too_large_is_refused(num_devices: int) -> None:
    assert "a cohort has 3 to 128 devices" in unfit({}, num_devices)


def test_a_sum_that_could_overflow_is_refused() -> None:
    goal = {"buffered": Buffered(goal=128, min_contributors=128)}
    assert "raise bits, or lower the goal" in unfit({"bits": 8}, 128, goal)


def test_too_few_levels_for_numbers_of_samples_are_refused() -> None:
    task = {"weigh_by_samples": True, "buffered": Buffered(goal=100, min_contributors=50)}
    why = unfit({"bits": 12}, 128, task)
    assert "weigh_by_samples = false" in why or "lower the goal" in why


def test_an_update_of_lightsecagg_must_fit_a_message() -> None:
    with pytest.raises(ConfigError, match="use seedmask"):
        secure_settings(scheme="lightsecagg").parameters(secure_task(), 8, 1_000_000)


def test_the_parameters_say_what_the_configuration_does() -> None:
    given = parameters({"support": "plan-0.5", "samples_cap": 7}, task={"weigh_by_samples": True})
    assert (given.size, given.samples_cap, given.max_contributors) == (4, 7, 4)
    assert parameters({}).samples_cap == 0


# --- keys and rosters --------------------------------------------------------------------------


def configured(
    folder: Path, *, key_file: str = "", enrolment_key: str = "", **secure: Any
) -> AggregatorConfig:
    return AggregatorConfig(
        state_dir=str(folder),
        task=secure_task(),
        secure=secure_settings(**secure),
        identity=IdentityConfig(key_file=key_file, enrolment_key=enrolment_key),
    )


def complete(folder: Path) -> dict[str, Any]:
    """Lay down what `fedbus enrol` makes; return the settings that name it."""
    made = enrol(NAMES, secure_task(), secure_settings())
    rosters = folder / "rosters"
    rosters.mkdir()
    (rosters / "all-1.roster").write_bytes(pack(made.signed))
    (folder / "aggregator.key").write_text(made.aggregator.hex() + "\n")
    (folder / "aggregator.key").chmod(0o600)
    return {
        "rosters": str(rosters),
        "key_file": str(folder / "aggregator.key"),
        "enrolment_key": made.enrolment.hex(),
    }


def test_an_enrolment_is_read(tmp_path: Path) -> None:
    found = load_enrolment(configured(tmp_path, **complete(tmp_path)))
    assert found is not None
    made = enrol(NAMES, secure_task(), secure_settings())
    assert (found.secret, found.enrolment_key) == (made.aggregator, made.enrolment)
    assert found.rosters == (made.signed,)
    assert made.roster.aggregator == identity_public(found.secret)


def test_a_task_in_the_clear_has_no_enrolment(tmp_path: Path) -> None:
    assert load_enrolment(configured(tmp_path, scheme="none")) is None


def test_the_aggregators_key_is_in_no_text(tmp_path: Path) -> None:
    found = load_enrolment(configured(tmp_path, **complete(tmp_path)))
    assert found is not None
    assert found.secret.hex() not in repr(found)
    assert repr(found.secret) not in repr(found)


@pytest.mark.parametrize("key", ["rosters", "key_file", "enrolment_key"])
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    settings = complete(tmp_path) | {key: ""}
    with pytest.raises(ConfigError, match=rf"{key}: `fedbus enrol new` makes it"):
        load_enrolment(configured(tmp_path, **settings))


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33, "not hex at all"])
def test_a_key_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    settings = complete(tmp_path)
    Path(settings["key_file"]).write_text(text)
    with pytest.raises(ConfigError, match="identity"):
        load_enrolment(configured(tmp_path, **settings))
    with pytest.raises(ConfigError, match="identity"):
        load_enrolment(configured(tmp_path, **complete_again(settings, text)))


def complete_again(settings: dict[str, Any], text: str) -> dict[str, Any]:
    Path(settings["key_file"]).write_text("11" * 32)
    return settings | {"enrolment_key": text or "0"}


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = complete(tmp_path)
    Path(settings["key_file"]).unlink()
    with pytest.raises(ConfigError, match="No such file"):
        load_enrolment(configured(tmp_path, **settings))


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"\xff"])
def test_a_roster_file_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "all-1.roster").write_bytes(data)
    with pytest.raises(ConfigError, match=r"all-1\.roster"):
        read_rosters(tmp_path)


def test_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("not a roster")
    assert read_rosters(tmp_path) == {}
    assert read_rosters(tmp_path / "nowhere") == {}


def test_keys_have_their_length() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Enrolment(secure_settings(), bytes(31), bytes(32))


def test_the_file_is_refused_as_a_whole_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(
        """
        state_dir = "state"
        [task]
        task = "t"
        [task.model]
        input = [2]
        loss = "softmax_cross_entropy"
        [[task.model.layers]]
        type = "dense"
        units = 2
        [task.buffered]
        goal = 4
        min_contributors = 2
        [secure]
        scheme = "seedmask"
        """
    )
    with pytest.raises(ConfigError, match=r"fed\.toml: a buffer of 2 updates could be closed"):
        load_config(file)


def test_a_task_may_not_be_secure_without_saying_so(tmp_path: Path) -> None:
    """An empty table is refused too: nobody sends updates in the open by mistake."""
    config = AggregatorConfig(state_dir=str(tmp_path), task=TaskConfig(task="t", model=MODEL))
    with pytest.raises(ConfigError, match="may see the update of every single device"):
        config.secure.check(config.task)


MODEL = {"input": [2], "layers": [{"type": "dense", "units": 2}], "loss": "softmax_cross_entropy"}


@pytest.mark.parametrize("key", ["key_file", "enrolment_key"])
def test_a_key_of_old_is_told_where_it_stands_now(tmp_path: Path, key: str) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(f'state_dir = "state"\n[secure]\n{key} = "x"\n')
    with pytest.raises(ConfigError, match=rf"secure\.{key}: it stands in \[identity\] {key} now"):
        load_config(file)
