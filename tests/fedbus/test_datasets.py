"""The demonstration's data: no row in two places, and the same split for the same seed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbus.datasets import MIN_ROWS, Dataset, Split, load, split
from protocol.errors import ConfigError


def numbered(num_rows: int, num_classes: int = 4, owners: list[int] | None = None) -> Dataset:
    """Rows whose only feature is their own number."""
    x = np.arange(num_rows, dtype=np.float32)[:, None]
    y = np.arange(num_rows, dtype=np.int64) % num_classes
    owner = None if owners is None else np.array(owners, dtype=np.int64)
    return Dataset(x, y, owner=owner, scaled=True, name="numbered")


def rows_of(parts: Split) -> list[list[int]]:
    return [part.x[:, 0].astype(int).tolist() for part in (*parts.devices, parts.held_out)]


@given(devices=st.integers(1, 10), alpha=st.floats(0.01, 100.0), seed=st.integers(0, 1000))
def test_each_row_is_in_one_place_and_nobody_is_empty_handed(
    devices: int, alpha: float, seed: int
) -> None:
    dealt = rows_of(split(numbered(200), devices=devices, alpha=alpha, seed=seed))
    assert sorted(row for part in dealt for row in part) == list(range(200))
    assert len(dealt[-1]) == 40
    assert min(map(len, dealt[:-1])) >= MIN_ROWS


def test_the_same_seed_gives_the_same_split_and_another_one_does_not() -> None:
    data = numbered(400)
    first = rows_of(split(data, devices=5, alpha=0.3, seed=7))
    assert rows_of(split(data, devices=5, alpha=0.3, seed=7)) == first
    assert rows_of(split(data, devices=5, alpha=0.3, seed=8)) != first


def test_a_small_alpha_gives_devices_fewer_labels() -> None:
    data = numbered(2000, num_classes=10)

    def labels_seen(alpha: float) -> int:
        parts = split(data, devices=8, alpha=alpha, seed=1)
        return sum(len(np.unique(part.y)) for part in parts.devices)

    assert labels_seen(0.05) < labels_seen(100.0)


def test_an_owners_rows_stay_on_one_device() -> None:
    owners = [row % 6 for row in range(300)]
    parts = split(numbered(300, owners=owners), devices=3, alpha=1.0, seed=0)
    seen = [{row % 6 for row in part} for part in rows_of(parts)[:-1]]
    assert sum(map(len, seen)) == 6
    assert set().union(*seen) == set(range(6))
    assert [len(part) for part in seen] == [2, 2, 2]


@pytest.mark.parametrize("devices", [0, 21])
def test_too_many_devices_for_the_rows_are_refused(devices: int) -> None:
    with pytest.raises(ConfigError, match="--devices"):
        split(numbered(200), devices=devices, alpha=1.0, seed=0)


def test_more_devices_than_owners_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 clients"):
        split(numbered(200, owners=[row % 2 for row in range(200)]), devices=3, alpha=1.0, seed=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_is_above_0(alpha: float) -> None:
    with pytest.raises(ConfigError, match="--alpha"):
        split(numbered(200), devices=2, alpha=alpha, seed=0)


def test_scaling_uses_training_rows_alone() -> None:
    plain = numbered(200)
    x = np.concatenate([plain.x * 50 + 3, np.full((200, 1), 4, np.float32)], axis=1)
    data = Dataset(x, plain.y, owner=None, scaled=False, name="wide")
    parts = split(data, devices=4, alpha=1.0, seed=3)
    dealt = np.concatenate([part.x for part in parts.devices])
    assert np.allclose(dealt[:, 0].mean(), 0, atol=1e-5)
    assert np.allclose(dealt[:, 0].std(), 1, atol=1e-5)
    assert not dealt[:, 1].any()  # a constant feature
    assert abs(parts.held_out.x[:, 0].mean()) > 1e-4  # was no part of the statistics


def test_the_digits_are_between_0_and_1() -> None:
    digits = load(None)
    assert digits.x.shape == (1797, 64)
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert digits.num_classes == 10


def test_labels_and_clients_may_be_words(tmp_path: Path) -> None:
    x = np.arange(24).reshape(6, 2, 2)
    y = np.array(["up", "down", "up", "left", "left", "up"])
    np.savez(tmp_path / "own.npz", x=x, y=y, client=np.array(list("abbcca")))
    data = load(tmp_path / "own.npz")
    assert data.x.shape == (6, 4)
    assert data.y.tolist() == [2, 0, 2, 1, 1, 2]
    assert data.owner is not None
    assert data.owner.tolist() == [0, 1, 1, 2, 2, 0]
    assert (data.num_owners, data.name) == (3, "own")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 2))}, "no array 'y'"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, "as many rows"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((3, 2), int)}, "y flat"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "as many rows"),
        ({"x": np.zeros((3, 2)), "y": np.array([0.5, 1, 2])}, "class labels"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(3, int)}, "1 labels"),
        ({"x": np.full((3, 2), np.nan), "y": np.arange(3)}, "NaN"),
        ({"x": np.array(["a", "b"]), "y": np.arange(2)}, "numbers"),
        ({"x": np.zeros((3, 2)), "y": np.arange(3), "client": np.arange(2)}, "one owner a row"),
        ({"x": np.zeros((3, 2)), "y": np.array([None, 1, 2])}, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    arrays: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type] # its keywords are arrays
    with pytest.raises(ConfigError, match=says) as raised:
        load(file)
    assert "bad.npz" in str(raised.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.npz: No such file"):
        load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "text.npz")
