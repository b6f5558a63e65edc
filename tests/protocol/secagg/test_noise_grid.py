"""Noise beneath masks: enough in every sum that is learned, and no update longer than its bound."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protocol.errors import ConfigError, LocalProtocolError
from protocol.noise import cost_nano
from protocol.secagg import scheme, shares
from protocol.secagg.noise_grid import MIN_LOG_SIGMA, TAIL, noise_grid
from protocol.secagg.parameters import LIGHTSECAGG, SEEDMASK, Parameters
from protocol.stream import derive
from tests.support.enrolment import parameters
from tests.support.masked_sums import Dealt, recovered

SEED = bytes(range(32))
PUBLIC = derive(SEED, "public")


def private(name: str = SEEDMASK, *, milli: int = 1000, size: int = 2_001) -> Parameters:
    made = parameters(10, scheme=name, size=size, bits=18, clip=0.5)
    made = replace(made, multiplier_milli=milli, budget_nano=100 * cost_nano(milli))
    made.check()
    return made


@given(st.integers(40, 1 << 30), st.integers(1, 128), st.integers(10, 1_000_000))
def test_the_honest_noise_alone_is_the_multiplier_times_the_bound(
    limit: int, num_honest: int, milli: int
) -> None:
    try:
        grid = noise_grid(limit, num_honest, milli)
    except ConfigError:
        return
    assert num_honest * 4**grid.log_sigma * 1000**2 >= (milli * grid.bound) ** 2
    assert grid.unit * (grid.bound + (TAIL << grid.log_sigma)) <= limit
    assert grid.log_sigma >= MIN_LOG_SIGMA


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=50, max_size=50), st.integers(0, 40))
def test_no_update_is_longer_than_the_bound(values: list[float], staleness: int) -> None:
    given_ = replace(private(size=51), staleness="polynomial-0.5")
    elements, told = given_.encode(np.array(values, np.float32), 1, staleness)
    steps = elements[:-1] // given_.grid.unit
    assert np.array_equal(steps * given_.grid.unit, elements[:-1])
    assert np.linalg.norm(steps) <= given_.grid.bound
    assert told == 0, "how much was cut would tell of the data"


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="finite"):
        private(size=3).encode(np.array([np.nan, 0], np.float32), 1)


def noise_learned(given_: Parameters, members: int, *, silent: int = 0) -> np.ndarray:
    """What is off in the sum that is learned, in clips; the first ``silent`` leave their noise out.

    As many holders are away at the recovery as may be.
    """
    chosen, sharing = scheme(given_.scheme), scheme(given_.scheme).sharing(given_)
    rng = np.random.default_rng(7)
    total, true, dealt = np.zeros(given_.size, np.int64), np.zeros(given_.size - 1), {}
    for member in range(members):
        seed = derive(SEED, "member", member)
        values = rng.normal(size=given_.size - 1)
        values *= given_.clip / np.linalg.norm(values) / 2
        true += values
        elements, _ = given_.encode(values.astype(np.float32), 1)
        if member >= silent:
            elements = given_.noisy(elements, derive(seed, "privacy"))
        secret = chosen.secret(given_, seed)
        dealt[member] = Dealt(secret, shares.deal(secret, sharing, derive(seed, "dealing")))
        chosen.add(given_, total, chosen.mask(given_, PUBLIC, secret, elements, seed))
    holders = range(given_.num_devices - given_.num_answers, given_.num_devices)
    secret_sum = recovered(given_, dealt, range(members), holders)
    sums = chosen.unmask(given_, PUBLIC, total, members, secret_sum)
    assert given_.weight_of(int(sums[-1])) == members
    return (sums[:-1] / given_.scale - true) / given_.clip


@pytest.mark.parametrize("name", [SEEDMASK, LIGHTSECAGG])
def test_the_smallest_sum_with_t_silent_liars_has_the_whole_noise(name: str) -> None:
    """The worst that can be learned: min_contributors devices, t of which leave their noise out."""
    given_ = private(name)
    noise = noise_learned(given_, given_.min_contributors, silent=given_.num_malicious)
    assert noise.std() == pytest.approx(1.0, rel=5 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert stats.kstest(noise, "norm").pvalue > 1e-6


def test_every_honest_device_adds_its_part() -> None:
    given_ = private()
    noise = noise_learned(given_, given_.max_contributors)
    wanted = np.sqrt(given_.max_contributors / given_.num_noisy)
    assert noise.std() == pytest.approx(wanted, rel=5 / np.sqrt(2 * noise.size))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples_cap": 100}, "weigh_by_samples"),
        ({"budget_nano": 1}, "does not pay for one update"),
        (
            {"scheme": LIGHTSECAGG, "multiplier_milli": 900_000, "budget_nano": 10**9},
            "steps long|no room",
        ),
    ],
)
def test_a_roster_that_keeps_no_promise_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(private(), **change).check()  # type: ignore[arg-type] # fields by name


def test_without_privacy_nothing_is_added() -> None:
    plain = parameters(10, scheme=SEEDMASK, size=5, bits=18)
    elements, _ = plain.encode(np.ones(4, np.float32), 3)
    assert plain.noisy(elements, SEED) is elements
    assert plain.cost_nano == 0
