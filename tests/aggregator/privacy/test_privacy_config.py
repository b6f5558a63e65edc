"""What cannot be kept is refused, with the reason; what is spent stays spent."""

from collections.abc import Mapping
from typing import Any

import pytest

from aggregator.actions import Action, Store
from aggregator.privacy.budget import Budget, round_up
from aggregator.privacy.config import PrivacyConfig
from aggregator.privacy.ledger import SPENT, Ledger
from aggregator.records import DocumentRecord
from protocol.errors import ConfigError
from protocol.settings import build

CENTRAL = {"mechanism": "central", "updates": 10}


def documents(actions: list[Action]) -> dict[str, bytes]:
    records = [action.record for action in actions if isinstance(action, Store)]
    return {each.key: each.data for each in records if isinstance(each, DocumentRecord)}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"mechanism": "local"}, "use none, central, distributed"),
        ({"mechanism": "central"}, "one of both"),
        ({**CENTRAL, "noise_multiplier": 1.0}, "one of both"),
        ({**CENTRAL, "delta": 0.5}, "delta must be from"),
        ({**CENTRAL, "epsilon": 0.0}, "epsilon must be from"),
        ({**CENTRAL, "clip": 0.0}, "clip must be from"),
        ({**CENTRAL, "updates": 1_000_000, "epsilon": 0.01}, "allow fewer updates"),
        ({"mechanism": "central", "noise_multiplier": 0.05}, "a single update"),
        ({**CENTRAL, "mechanism": "distributed", "clip_quantile": 0.5}, "signed roster"),
    ],
)
def test_a_table_that_promises_nothing_true_is_refused(table: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(PrivacyConfig, table, "privacy")


def test_noise_is_rounded_up_so_that_the_budget_still_holds() -> None:
    config = PrivacyConfig(mechanism="central", updates=100)
    assert round(config.multiplier * 1000) / 1000 == config.multiplier
    assert config.most_updates >= 100


def test_a_device_may_send_its_last_update_and_no_other() -> None:
    config = PrivacyConfig(mechanism="central", updates=3)
    budget = Budget(config, {}, bytes(32))
    for _ in range(config.most_updates):
        assert not budget.is_spent("a")
        budget.released(["a"])
    assert budget.is_spent("a")
    assert not budget.is_spent("b")
    assert budget.num_spent == 1
    assert budget.epsilon <= config.epsilon
    assert budget.why_stopped(2).startswith("1 of 2 devices")
    assert not budget.has_stopped(2)
    assert budget.has_stopped(1)


def test_what_was_spent_survives_a_restart_and_other_settings() -> None:
    budget = Budget(PrivacyConfig(mechanism="central", noise_multiplier=1.0), {}, bytes(32))
    stored = documents([*budget.released(["a", "b"]), *budget.released(["a"])])
    again = Budget(PrivacyConfig(mechanism="central", noise_multiplier=4.0), stored, bytes(32))
    assert again.epsilon == budget.epsilon
    assert Ledger(stored).spent("a") == 2 * Ledger(stored).spent("b")
    assert set(stored) == {SPENT + "a", SPENT + "b"}


def test_two_updates_of_a_device_in_one_sum_cost_four_times_one() -> None:
    config = PrivacyConfig(mechanism="central", noise_multiplier=2.0)
    twice, once = (Budget(config, {}, bytes(32)) for _ in range(2))
    twice.released(["a", "a"])
    for _ in range(4):
        once.released(["a"])
    assert twice.epsilon == once.epsilon


def test_a_task_whose_privacy_was_taken_out_is_told_of_for_good() -> None:
    budget = Budget(PrivacyConfig(mechanism="central", noise_multiplier=1.0), {}, bytes(32))
    assert not budget.given_up
    stored = documents(budget.released(["a"]))
    told = Budget(PrivacyConfig(), stored, bytes(32)).given_up
    assert f"epsilon {round_up(budget.epsilon):g} (delta 1e-05) at most" in told
    assert Budget(PrivacyConfig(), stored, bytes(32)).report() == {"given_up": told}


def test_without_privacy_nothing_is_kept_or_told() -> None:
    budget = Budget(PrivacyConfig(), {}, bytes(32))
    assert budget.released(["a"]) == []
    assert not budget.report()
    assert not budget.is_spent("a")
