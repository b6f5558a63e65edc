"""Rounds of `pairwise` with real processes: killed in the middle, they end with the exact sum."""

import signal
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest

from aggregator.store import open_store
from device_sdk.epochs import ROUND
from device_sdk.storage import Storage
from tests.support.federation import TASK
from tests.support.run_device import Vector
from tests.support.secure_federation import SecureFederation

pytestmark = pytest.mark.broker

SIX = ("ada", "ben", "cleo", "dan", "eve", "finn")
IN_ROUNDS = {
    "mode": "rounds",
    "max_staleness": 0,
    "lease_ttl_s": 30,
    "rounds": {"size": 6, "quorum": 4, "deadline_s": 6.0, "gather_s": 1.0},
}


def check_sums(federation: SecureFederation) -> int:
    """Each version is the one before plus the mean of what its devices trained, to the rounding.

    Return how many versions there are.
    """
    trained: dict[bytes, tuple[int, Vector]] = {}
    for name in federation.devices:
        trained |= federation.record(name).trained
    config = federation.config
    given = federation.parameters(len(federation.devices))
    store = open_store(Path(config.state_dir), TASK, keep_versions=config.task.keep_versions)
    try:
        counted = store.counted_ids()
        assert len({lease_id for _, lease_id in counted}) == len(counted), "counted twice"
        for version, entries in groupby(counted, itemgetter(0)):
            made = [trained[lease_id] for _, lease_id in entries]
            assert len(made) >= given.min_contributors
            levels = np.array([given.level(num_samples) for num_samples, _ in made])
            mean = np.average([delta for _, delta in made], axis=0, weights=levels)
            before, after = (store.params(number) for number in (version - 1, version))
            assert before is not None
            assert after is not None
            moved = np.frombuffer(after, "<f4").astype(np.float64) - np.frombuffer(before, "<f4")
            bound = len(made) / given.scale + 1e-6
            assert np.abs(mean).max() > 20 * bound, "the bound says nothing"
            assert np.abs(moved - mean).max() <= bound, f"version {version}"
        return len({version for version, _ in counted})
    finally:
        store.close()


def test_a_dead_device_and_a_dead_aggregator_leave_the_sum_of_the_survivors(
    tmp_path: Path,
) -> None:
    """N, t, T = 6, 1, 3: four must sign, and four answers decode."""
    secure = {"scheme": "pairwise"}
    with SecureFederation(tmp_path, SIX, secure=secure, task=IN_ROUNDS) as federation:
        federation.start_aggregator()
        federation.start_device("ada", "--train-s", "2.0")
        for name in SIX[1:]:
            federation.start_device(name)
        federation.grows(1)
        federation.until(
            lambda: federation.journalled == set(SIX[1:]) and federation.training == {"ada"},
            "five updates, and one in the making",
        )
        federation.signal("ada", signal.SIGSTOP)
        version = federation.version
        federation.kill("finn")
        federation.kill("aggregator")
        assert federation.journalled == set(SIX[1:])
        assert ROUND in Storage(federation.state_dir("finn")).load()
        [[of_finn]] = federation.query(
            "SELECT lease_id FROM fedbus_journal JOIN fedbus_lease USING (lease_id)"
            " WHERE device = 'finn'"
        )
        federation.start_aggregator()
        federation.signal("ada", signal.SIGCONT)
        federation.until(lambda: federation.version > version, "no sum")
        federation.start_device("finn")
        federation.all_go_on()
        assert not federation.refused.get("bad_signature")
        federation.stop()
        assert check_sums(federation) > version
        assert of_finn in federation.record("finn").receipts, "it was counted without its help"


def test_devices_killed_again_and_again_cost_rounds_and_never_a_wrong_sum(tmp_path: Path) -> None:
    """N, t, T = 6, 1, 3; whoever is killed at whatever stage."""
    secure = {"scheme": "pairwise"}
    with SecureFederation(tmp_path, SIX, secure=secure, task=IN_ROUNDS) as federation:
        federation.start()
        federation.grows(1)
        for number in range(6):
            name = SIX[number % 3]
            federation.kill(name)
            federation.grows(1)
            federation.start_device(name)
        federation.all_go_on()
        federation.stop()
        check_sums(federation)
