"""No update moves a sum further than the clip, and the noise is as large as was accounted for."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.actions import Store
from aggregator.privacy.central import CLIP, Central
from aggregator.privacy.config import PrivacyConfig
from aggregator.records import DocumentRecord
from protocol.vectors.packing import SparseDelta


def central(multiplier: float = 1.0, *, clip: float = 0.5, quantile: float = 0.0) -> Central:
    config = PrivacyConfig(
        mechanism="central",
        epsilon=900.0,
        noise_multiplier=multiplier,
        clip=clip,
        clip_quantile=quantile,
    )
    return Central(config, {}, bytes(range(32)))


def dense(values: list[float]) -> SparseDelta:
    return SparseDelta(None, np.array(values, np.float32), len(values))


def bound(multiplier: float) -> float:
    """How many steps of its grid the clip is long, found from outside."""
    one = central(multiplier, clip=1.0)
    return float(one.bounded(dense([1.0]), 1.0).values[0]) + 1


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.floats(1e-3, 1.0),
    st.sampled_from([0.05, 1.0, 30.0]),
)
def test_no_update_is_longer_than_the_clip_after_rounding(
    values: list[float], weight: float, multiplier: float
) -> None:
    whole = central(multiplier).bounded(dense(values), weight).values
    assert np.array_equal(whole, np.rint(whole))
    assert np.linalg.norm(whole.astype(np.float64)) <= bound(multiplier)


def test_a_short_update_keeps_its_direction_and_length() -> None:
    one = central(0.05)
    sent = dense([0.1, -0.2, 0.3])
    total = one.bounded(sent, 0.5).values.astype(np.float64)
    assert central(0.05).released(total, 1) == pytest.approx(0.5 * sent.values, abs=6 * 0.05 * 0.5)
    assert total * (0.5 / (bound(0.05) - 1)) == pytest.approx(0.5 * sent.values, abs=1e-4)


@pytest.mark.parametrize("multiplier", [0.05, 1.0, 7.3])
def test_the_noise_is_the_multiplier_times_the_clip(multiplier: float) -> None:
    noise = central(multiplier).released(np.zeros(40_000), 10)
    assert noise.std() == pytest.approx(multiplier * 0.5, rel=5 / math.sqrt(80_000))
    assert abs(noise.mean()) < 5 * multiplier * 0.5 / 200


def test_no_two_releases_have_the_same_noise() -> None:
    one = central()
    first, second = one.released(np.zeros(100), 1), one.released(np.zeros(100), 1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_an_adaptive_clip_finds_the_quantile_and_comes_back_after_a_restart() -> None:
    """Norms from 0 to 4 and a quantile of a half: the clip ends near 2."""
    one = central(0.3, clip=0.1, quantile=0.5)
    norms = np.linspace(0.0, 4.0, 400)
    stored: dict[str, bytes] = {}
    clips = []
    for _ in range(80):
        for norm in norms:
            one.bounded(dense([norm]), 1.0)
        one.released(np.zeros(1), len(norms))
        for action in one.counted():
            assert isinstance(action, Store)
            assert isinstance(action.record, DocumentRecord)
            stored[action.record.key] = action.record.data
        clips.append(one.clip)
    assert np.mean(clips[-20:]) == pytest.approx(2.0, abs=0.15)
    config = PrivacyConfig(
        mechanism="central", epsilon=900.0, noise_multiplier=0.3, clip=0.1, clip_quantile=0.5
    )
    assert Central(config, stored, bytes(32)).clip == one.clip
    assert set(stored) == {CLIP}


def test_counting_norms_is_paid_for_with_more_noise() -> None:
    """1 / z**2 = 1 / values**2 + 1 / count**2, as in the paper: together no more than without."""
    values = central(1.0, quantile=0.5).released(np.zeros(40_000), 10).std() / 0.5
    assert values == pytest.approx(math.sqrt(1 / 0.9), rel=0.02)
    steps = []
    for number in range(300):
        config = PrivacyConfig(
            mechanism="central",
            epsilon=900.0,
            noise_multiplier=1.0,
            clip_quantile=0.5,
            clip_rate=1e-3,
        )
        one = Central(config, {}, number.to_bytes(32, "little"))
        one.released(np.zeros(1), 1000)
        one.counted()
        steps.append(math.log(one.clip) / 1e-3)
    # None was below: the part is 0, and what is added to it has sigma 1 / sqrt(0.1) / 2 / 1000,
    # but parts below 0 are cut: the other half is what is seen.
    seen = np.array([0.5 - step for step in steps])
    assert seen.max() == pytest.approx(3 * math.sqrt(10) / 2000, rel=0.5)
