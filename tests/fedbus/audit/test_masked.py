"""What a cohort says shows nothing of one device; with the secrets it shows all."""

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from fedbus.audit import relay
from fedbus.audit.figures import correlation
from fedbus.audit.masked import Cohort, smallest_cohort
from tests.support.desk import task_config

SEED = bytes(range(32))
SIZE = 600


def cohort(name: str, support: str = "dense") -> Cohort:
    mode = "rounds" if name == "pairwise" else "buffered"
    task: TaskConfig = task_config(mode=mode, rounds=Rounds(quorum=8))
    config = SecureConfig(scheme=name, support=support)
    return Cohort(config, task, smallest_cohort(config, task), SIZE, SEED)


def delta(number: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(number).normal(0, 0.1, SIZE).astype(np.float32)


@pytest.mark.parametrize("name", ["seedmask", "lightsecagg", "pairwise"])
def test_one_masked_update_looks_like_nothing(name: str) -> None:
    where = cohort(name)
    found = where.seen(where.masked(1, delta(1), 8).body)
    assert abs(correlation(found, delta(1).astype(np.float64))) < 5 * SIZE**-0.5


@pytest.mark.parametrize("name", ["seedmask", "lightsecagg", "pairwise"])
def test_a_sum_is_the_mean_of_its_devices(name: str) -> None:
    where = cohort(name)
    deltas = [delta(number) for number in range(where.smallest_sum)]
    np.testing.assert_allclose(
        where.summed([(each, 8) for each in deltas]), np.mean(deltas, axis=0), atol=0.02
    )


@pytest.mark.parametrize("name", ["seedmask", "lightsecagg"])
def test_a_relay_reads_nothing_unless_it_opens_enough_shares(name: str) -> None:
    """The last is the control: an attack that never works would prove nothing."""
    where = cohort(name)
    given, whole = where.parameters, delta(2).astype(np.float64)
    update = where.masked(2, delta(2), 8)
    for insiders in (0, given.num_malicious, given.num_answers - 1):
        found = relay.read(where, update, range(insiders))
        assert abs(correlation(found, whole)) < 5 * SIZE**-0.5
    assert correlation(relay.read(where, update, range(given.num_answers)), whole) > 0.99


def test_coordinates_that_do_not_travel_are_not_seen() -> None:
    where = cohort("seedmask", support="randk-0.5")
    mean = where.summed([(delta(number), 8) for number in range(where.smallest_sum)])
    assert np.count_nonzero(mean) == pytest.approx(SIZE / 2, rel=0.1)
