"""A device counts what its updates cost by itself, durably, before they leave."""

from dataclasses import replace

import numpy as np
import pytest

from device_sdk.actions import Store
from device_sdk.masking import Chosen, make_masked
from device_sdk.spending import SPENT, Spending
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease
from protocol.noise import cost_nano
from protocol.secagg.field import Elements
from protocol.secagg.roster import Roster
from protocol.vectors.packing import parse_codec
from tests.support.enrolment import cohort, parameters

COST = cost_nano(1000)
GIVEN = replace(parameters(5), multiplier_milli=1000, budget_nano=2 * COST)


def test_a_device_stops_by_itself_when_its_budget_is_spent_whatever_it_is_asked() -> None:
    spending = Spending({})
    stored = {}
    for _ in range(2):
        spending.spend(GIVEN)
        [action] = spending.kept()
        assert isinstance(action, Store)
        stored[action.key] = action.data
    for again in (spending, Spending(stored)):
        with pytest.raises(RemoteProtocolError) as refused:
            again.spend(GIVEN)
        assert refused.value.reason == refusals.PRIVACY_SPENT
        assert again.spent_nano == 2 * COST
        assert again.kept() == []


def test_another_epoch_with_other_noise_goes_on_from_what_was_spent() -> None:
    spending = Spending({SPENT: b"%d" % (2 * COST)})
    quieter = replace(GIVEN, multiplier_milli=2000, budget_nano=2 * COST + cost_nano(2000))
    spending.spend(quieter)
    with pytest.raises(RemoteProtocolError):
        spending.check(quieter)


def test_a_task_without_privacy_costs_nothing_and_stores_nothing() -> None:
    spending = Spending({SPENT: b"%d" % (9 * COST)})
    spending.spend(parameters(5))
    assert spending.kept() == []


class Shown:
    """A mask that hides nothing: what it was given is there to be looked at."""

    counter = 1

    def __init__(self) -> None:
        self.values = np.zeros(0, np.int64)

    def apply(self, _roster: Roster, values: Elements, _public_seed: bytes, /) -> bytes:
        self.values = values
        return bytes(8)

    def privacy_seed(self) -> bytes:
        return bytes(32)


def test_a_residual_takes_no_noise_back() -> None:
    """What the next update took back of this one's noise, both sums together would lack."""
    delta = np.array([0.01, 0.02, 0.03, 0.04, 0.05], np.float32)
    roster = cohort(["a", "b", "c", "d", "e"], size=6).roster
    private = replace(roster.parameters, multiplier_milli=1000, budget_nano=2 * COST)
    roster = replace(roster, parameters=private)
    mask = Shown()
    lease = Lease(
        bytes(16), bytes(16), 3, bytes(32), 1, 1, "plan-0.9/seedmask", 10_000, partition=0, ttl_s=9
    )
    chosen = Chosen(0, np.arange(5))
    pending, _ = make_masked(
        lease,
        parse_codec("plan-0.9/seedmask"),
        delta,
        1,
        staleness=0,
        chosen=chosen,
        roster=roster,
        mask=mask,
        residual=None,
    )
    sent = np.frombuffer(pending.sent, "<f4")
    learned = mask.values[:-1] / roster.parameters.scale
    assert sent == pytest.approx(delta, abs=1e-5)
    assert np.abs(np.frombuffer(pending.residual, "<f4")).max() < 1e-5
    assert np.abs(learned - delta).std() > 0.1, "the noise has left"
