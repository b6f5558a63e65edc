"""Dealing rows: whatever the split, each row is dealt once, and who holds what is as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError
from simulator import splits
from simulator.data import DataConfig, Dataset, deal

LABELS = np.random.default_rng(0).integers(0, 10, 600)
CLIENTS = np.random.default_rng(1).integers(-1, 30, 600)
DATA = Dataset(np.zeros((600, 2), np.float32), LABELS, CLIENTS, None)


@settings(deadline=None)
@given(
    st.sampled_from(["dirichlet", "shards", "clients", "speed"]),
    st.integers(2, 12),
    st.floats(0.05, 5),
    st.integers(0, 1000),
)
def test_every_row_is_dealt_once(split: str, num_devices: int, alpha: float, seed: int) -> None:
    config = DataConfig(
        file="x", split=split, client="c", alpha=alpha, slow_labels=(7, 8), min_samples=5
    )
    is_slow = [number < num_devices // 2 for number in range(num_devices)]
    dealt = deal(config, DATA, is_slow, seed)
    rows = np.concatenate([*dealt.devices, dealt.held_out])
    assert sorted(rows.tolist()) == list(range(600))
    assert len(dealt.devices) == num_devices
    if split in {"dirichlet", "speed"}:
        assert min(map(len, dealt.devices)) >= 5
    again = deal(config, DATA, is_slow, seed)
    assert [rows.tolist() for rows in again.devices] == [rows.tolist() for rows in dealt.devices]


def test_a_client_stays_whole() -> None:
    rng = np.random.default_rng(2)
    parts = splits.clients(CLIENTS, np.arange(600), 7, rng)
    owners = [set(CLIENTS[part].tolist()) - {-1} for part in parts]
    assert sum(len(each) for each in owners) == len(set.union(*owners)) == 30
    assert max(map(len, parts)) <= 2 * min(map(len, parts))
    with pytest.raises(ConfigError, match=r"30 clients .* but 31 devices"):
        splits.clients(CLIENTS, np.arange(600), 31, rng)


def test_shards_give_a_device_few_labels() -> None:
    parts = splits.shards(LABELS, np.arange(600), 10, per_device=2, rng=np.random.default_rng(3))
    assert max(len(set(LABELS[part].tolist())) for part in parts) <= 4


def test_slow_devices_own_the_slow_labels() -> None:
    config = DataConfig(source="digits", split="speed", slow_labels=(7, 8, 9), alpha=1.0)
    dealt = deal(config, DATA, [False] * 6 + [True] * 4, 0)
    held = [np.isin(LABELS[rows], (7, 8, 9)).mean() for rows in dealt.devices]
    assert np.mean(held[6:]) > 0.7
    assert np.mean(held[:6]) < 0.1
    with pytest.raises(ConfigError, match="classes with slow = true"):
        deal(config, DATA, [False] * 10, 0)


def test_features_are_standardised_by_rows_that_train() -> None:
    x = np.random.default_rng(4).normal(5, 3, (600, 2)).astype(np.float32)
    config = DataConfig(source="digits", standardise=True)
    dealt = deal(config, Dataset(x, LABELS, None, None), [False] * 4, 0)
    train = dealt.x[np.concatenate(dealt.devices)]
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
