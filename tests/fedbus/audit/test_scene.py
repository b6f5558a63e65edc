"""What is attacked is what the configuration makes of an update: its codec, its noise, its rows."""

import numpy as np
import pytest

from aggregator.config import AggregatorConfig
from aggregator.privacy.config import PrivacyConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from fedbus.audit.scene import Data, Scene, made_up
from protocol.errors import ConfigError

SEED = bytes(range(32))
MODEL = {
    "input": [16],
    "layers": [{"type": "dense", "units": 8}, {"type": "relu"}, {"type": "dense", "units": 3}],
    "loss": "softmax_cross_entropy",
}


def scene(scheme: str = "none", mechanism: str = "none", codec: str = "dense/float32") -> Scene:
    rng = np.random.default_rng(0)
    data = Data(
        rng.normal(size=(400, 16)).astype(np.float32), rng.integers(0, 3, 400), is_real=True
    )
    privacy = PrivacyConfig(mechanism=mechanism, updates=0 if mechanism == "none" else 10)
    few = 10 if scheme != "none" else 1
    task = TaskConfig(
        task="t",
        model=MODEL,
        codec=codec,
        weigh_by_samples=False,
        buffered=Buffered(min_contributors=few),
        privacy=privacy,
    )
    secure = SecureConfig(scheme=scheme, min_contributors=few if few > 1 else 0)
    config = AggregatorConfig(state_dir="unused", task=task, secure=secure)
    return Scene(config, data, num_samples=8, seed=SEED)


def test_no_two_devices_share_a_sample_and_the_others_are_nobodys() -> None:
    where = scene()
    rows = [where.rows_of(1, device, 8).tolist() for device in range(where.num_devices)]
    flat = [row for each in rows for row in each]
    assert len(set(flat)) == len(flat)
    assert not set(flat) & set(where.outside.tolist())


def test_an_open_update_is_what_its_codec_leaves_of_it() -> None:
    for codec, kept in (("dense/float32", 1.0), ("topk-0.25/int8", 0.25)):
        where = scene(codec=codec)
        sent = where.train(where.first, where.rows_of(0, 0, 8))
        seen = where.in_the_open(sent)
        assert np.count_nonzero(seen) <= np.ceil(kept * seen.size)
        assert np.corrcoef(seen, sent.delta)[0, 1] > 0.6


@pytest.mark.parametrize(
    ("scheme", "mechanism"), [("none", "central"), ("seedmask", "distributed")]
)
def test_private_sums_have_their_noise_and_new_noise_each_time(scheme: str, mechanism: str) -> None:
    where = scene(scheme, mechanism)
    sent = [where.train(where.first, where.rows_of(0, at, 8)) for at in range(10)]
    first, second = where.summed(sent), where.summed(sent)
    mean = np.mean([each.delta for each in sent], axis=0)
    spread = where.task.privacy.multiplier * where.task.privacy.clip / len(sent)
    assert 0.5 * spread < np.std(first - mean) < 3 * spread
    assert abs(np.corrcoef(first - mean, second - mean)[0, 1]) < 0.5
    assert where.most_versions == 10


def test_without_noise_a_sum_is_the_mean() -> None:
    where = scene()
    sent = [where.train(where.first, where.rows_of(0, at, 8)) for at in range(4)]
    mean = np.mean([each.delta for each in sent], axis=0)
    np.testing.assert_allclose(where.summed(sent), mean, atol=1e-6)


def test_data_are_made_up_where_a_model_takes_any() -> None:
    data = made_up(scene().model, SEED)
    assert not data.is_real
    assert data.box[0] >= 0.0
    assert data.box[1] <= 1.0


def test_too_few_samples_are_refused() -> None:
    where = scene()
    few = where.data.rows(np.arange(60, dtype=np.intp))
    with pytest.raises(ConfigError, match="60 samples are too few: 8 devices with 8 each"):
        Scene(where.config, few, num_samples=8, seed=SEED)
