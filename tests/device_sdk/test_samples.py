"""The sample store: what is kept, for how long, and who can read it."""

import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sdk.engine.errors import TrainingError
from device_sdk.samples import SampleStore, sample_key
from device_sdk.storage import StorageError
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.errors import ConfigError
from tests.support.moments import seeded
from tests.support.small_disk import small_disk

KEY = sample_key(bytes(range(32)))
SEED = bytes(range(32))

#: Appends samples 0, 1, 2, ... three at a time; a line after each time.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from device_sdk.samples import SampleStore
store = SampleStore(Path(sys.argv[1]), 50, x_shape=(100,), key=bytes.fromhex(sys.argv[2]) or None)
for number in range(store.num_seen, 1_000_000, 3):
    rows = np.arange(number, number + 3)
    store.append(np.repeat(rows.astype(np.float32)[:, np.newaxis], 100, axis=1), rows)
    sys.stdout.write(f"{number + 3}\\n")
    sys.stdout.flush()
"""


def store_in(folder: Path, capacity: int = 10, **settings: Any) -> SampleStore:
    return SampleStore(folder / "samples", capacity, **{"x_shape": (3,), **settings})


def rows(*numbers: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Samples that say which they are."""
    labels = np.array(numbers, np.int64)
    return np.repeat(labels.astype(np.float32)[:, np.newaxis], 3, axis=1), labels


def labels(store: SampleStore) -> list[int]:
    """What is held, each whole."""
    found: list[int] = []
    for x, y in store:
        assert (x == y[:, np.newaxis]).all()
        found += y.tolist()
    return sorted(found)


@settings(deadline=None)
@given(
    capacity=st.integers(1, 12),
    appends=st.lists(st.integers(0, 9), max_size=8),
    key=st.sampled_from([None, KEY]),
)
def test_a_ring_keeps_the_newest(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, appends: list[int], key: bytes | None
) -> None:
    folder, seen = tmp_path_factory.mktemp("ring"), 0
    for count in appends:
        with store_in(folder, capacity, key=key) as store:
            store.append(*rows(*range(seen, seen + count)))
            seen += count
            assert labels(store) == list(range(max(0, seen - capacity), seen))
            assert len(store) == min(seen, capacity)
    with store_in(folder, capacity, key=key) as store:
        assert labels(store) == list(range(max(0, seen - capacity), seen))
        assert (store.num_seen, store.num_corrupt) == (seen, 0)


def test_a_reservoir_keeps_each_sample_as_likely_as_any_other(tmp_path: Path) -> None:
    """Algorithm R: of 20 samples each is in one of 5 places with probability 1 in 4."""
    held = np.zeros(20)
    with store_in(tmp_path, 5, policy="reservoir") as store:
        for number in range(2000):
            store._seed = number.to_bytes(32, "little")
            places = {
                slot: index for index in range(20) if (slot := store._slot(index)) is not None
            }
            assert sorted(places) == list(range(5))
            held[list(places.values())] += 1
    five_deviations = 5 * np.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(held - 500).max() < five_deviations


def test_a_reservoir_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    with store_in(whole, policy="reservoir", seed=SEED) as store:
        store.append(*rows(*range(300)))
        wanted = labels(store)
    for start in range(0, 300, 20):
        with store_in(parts, policy="reservoir", seed=SEED) as store:
            assert store.num_seen == start
            store.append(*rows(*range(start, start + 20)))
    with store_in(parts, policy="reservoir") as store:
        assert labels(store) == wanted


def test_what_a_reservoir_does_not_keep_writes_nothing(tmp_path: Path) -> None:
    with store_in(tmp_path, 1, policy="reservoir", seed=SEED) as store:
        store.append(*rows(*range(1000)))
        (kept,) = labels(store)
        before = (tmp_path / "samples").read_bytes()
        for number in range(1000, 1020):
            store.append(*rows(number))
        assert labels(store) == [kept], "choose another seed"
        assert (tmp_path / "samples").read_bytes() == before
        assert store.num_seen == 1020


@pytest.mark.parametrize("key", [None, KEY])
def test_the_size_is_taken_at_once_and_never_changes(tmp_path: Path, key: bytes | None) -> None:
    with store_in(tmp_path, 1000, key=key) as store:
        status = (tmp_path / "samples").stat()
        assert store.num_bytes == status.st_size
        assert status.st_blocks * 512 >= store.num_bytes
        assert status.st_mode & 0o777 == 0o600
        for _ in range(3):
            store.append(*rows(*range(700)))
        assert (tmp_path / "samples").stat().st_size == store.num_bytes


def test_images_tokens_and_vectors_as_labels(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1)
    x = drawn.integers(0, 256, (40, 28, 28)).astype(np.uint8)
    y = drawn.standard_normal((40, 4)).astype(np.float32)
    settings = {"x_shape": (28, 28), "x_dtype": np.uint8, "y_shape": (4,), "y_dtype": np.float32}
    with store_in(tmp_path, 100, **settings) as store:
        store.append(x, y)
        ((held_x, held_y),) = store
        assert held_x.dtype == np.uint8
        assert held_y.dtype == np.float32
        assert np.array_equal(held_x, x)
        assert np.array_equal(held_y, y)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_pass_holds_one_block_of_a_mebibyte_from_all_over_the_file(
    tmp_path: Path, key: bytes | None
) -> None:
    count, width = 4000, 256
    with store_in(tmp_path, count, x_shape=(width,), key=key) as store:
        numbers = np.arange(count)
        x = np.repeat(numbers.astype(np.float32)[:, np.newaxis], width, axis=1)
        store.append(x, numbers)
        blocks = list(store)
        assert 4 <= len(blocks) <= 5
        for held, y in blocks:
            assert held.nbytes < (1 << 20) + (1 << 17)
            assert int(np.ptp(y)) > count / 2
        assert sorted(int(n) for _, y in blocks for n in y) == list(range(count))
        assert labels(store) == list(range(count))


def test_an_append_while_training_reads_tears_no_sample(tmp_path: Path) -> None:
    with store_in(tmp_path, 3000, x_shape=(200,)) as store:
        over = threading.Event()

        def collect() -> None:
            number = 0
            while not over.is_set():
                fresh = np.arange(number, number + 50)
                store.append(np.repeat(fresh.astype(np.float32)[:, np.newaxis], 200, axis=1), fresh)
                number += 50

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            while store.num_seen < 6000:
                for x, y in store:
                    assert (x == y[:, np.newaxis]).all()
        finally:
            over.set()
            thread.join(30)
        assert store.num_corrupt == 0


@pytest.mark.parametrize("key", [None, KEY])
def test_a_damaged_sample_is_skipped_counted_and_replaced(
    tmp_path: Path, key: bytes | None
) -> None:
    with store_in(tmp_path, key=key) as store:
        for _ in range(2):  # what the journal still has would be mended from there
            store.append(*rows(*range(10)))
        store.append(*rows(0))
        store.append(*rows(1))
        end = store.num_bytes
        width = (end - store._slots._slots_at) // 10
    raw = bytearray((tmp_path / "samples").read_bytes())
    raw[end - 1] ^= 1
    raw[end - 3 * width] ^= 128
    (tmp_path / "samples").write_bytes(raw)
    with store_in(tmp_path, key=key) as store:
        assert labels(store) == [0, 1, 2, 3, 4, 5, 6, 8]
        assert (len(store), store.num_corrupt) == (8, 2)
        store.append(*rows(2, 3, 4, 5, 6, 7))
        assert labels(store) == list(range(9))
        assert (len(store), store.num_corrupt) == (9, 1)


def test_an_encrypted_file_shows_neither_samples_nor_labels(tmp_path: Path) -> None:
    x = np.full((5, 3), 1234.5, np.float32)
    y = np.full(5, 987_654_321)
    for name, key, seen in (("open", None, True), ("sealed", KEY, False)):
        with SampleStore(tmp_path / name, 10, x_shape=(3,), key=key) as store:
            store.append(x, y)
        raw = (tmp_path / name).read_bytes()
        assert (x[0].tobytes() in raw) == seen
        assert (y[:1].tobytes() in raw) == seen
        assert KEY not in raw


def test_the_same_sample_never_looks_the_same(tmp_path: Path) -> None:
    with store_in(tmp_path, key=KEY) as store:
        store.append(*rows(7, 7, 7))
        at, width = store._slots._slots_at, store._slots._width
    raw = (tmp_path / "samples").read_bytes()[at:]
    assert len({raw[start : start + width] for start in (0, width, 2 * width)}) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"key": sample_key(bytes(32))},
        {"key": None},
        {"capacity": 11},
        {"x_shape": (4,)},
        {"y_dtype": np.float32},
        {"policy": "reservoir"},
    ],
)
def test_other_settings_or_another_key_are_refused_and_harm_nothing(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    with store_in(tmp_path, key=KEY) as store:
        store.append(*rows(1, 2))
    with pytest.raises(ConfigError, match="choose another path"):
        store_in(tmp_path, **{"key": KEY, **other})
    with store_in(tmp_path, key=KEY) as store:
        assert labels(store) == [1, 2]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"capacity": 0}, "capacity"),
        ({"policy": "all"}, "policy"),
        ({"key": b"short"}, "key"),
        ({"x_dtype": object}, "floats or integers"),
        ({"y_dtype": "U5"}, "floats or integers"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        store_in(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (np.zeros((2, 4)), np.zeros(2, np.int64), r"x: float64 \(2, 4\) does not fit"),
        (np.zeros((2, 3)), np.zeros(3, np.int64), "y: "),
        (np.zeros(3), np.zeros(3, np.int64), "x: "),
        (np.float32(1), np.int64(1), "x: "),
        (np.array([[0, 1, np.nan]]), np.zeros(1, np.int64), "x holds"),
        (np.array([[0, 1, 1e300]]), np.zeros(1, np.int64), "x holds"),
        (np.zeros((1, 3)), np.array([0.5]), "y holds"),
        (np.zeros((1, 3)), np.array([np.nan]), "y holds"),
        (np.zeros((1, 3)), np.array(["1"]), "y: "),
        (np.zeros((1, 3), complex), np.array([1]), "x: "),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_added(
    tmp_path: Path, x: Any, y: Any, named: str
) -> None:
    with store_in(tmp_path) as store:
        store.append(*rows(1))
        with pytest.raises(TrainingError, match=named):
            store.append(x, y)
        assert labels(store) == [1]


def test_a_label_too_large_for_its_type_is_refused(tmp_path: Path) -> None:
    with store_in(tmp_path, y_dtype=np.uint8) as store:
        with pytest.raises(TrainingError, match="y holds"):
            store.append(np.zeros((1, 3)), np.array([256]))
        store.append(np.zeros((1, 3)), np.array([255]))
        assert len(store) == 1


def test_the_sdks_engine_trains_on_it(tmp_path: Path) -> None:
    drawn = np.random.default_rng(1)
    x = drawn.standard_normal((200, 3)).astype(np.float32)
    spec = {
        "input": [3],
        "layers": [{"type": "dense", "units": 2}],
        "loss": "softmax_cross_entropy",
    }
    wanted = Assignment(np.zeros(8, np.float32), 1, spec, {"epochs": 5}, SEED)
    with store_in(tmp_path, 200, key=KEY) as store:
        trainer = NumpyTrainer(data=store)
        assert trainer.num_samples() == 0, "no lease is asked for yet"
        store.append(x, (x[:, 0] > 0).astype(np.int64))
        assert trainer.num_samples() == 200
        trained = trainer.train(wanted)
        same = NumpyTrainer(data=store).train(wanted)
    assert trained.num_samples == 200
    assert trained.metrics["loss"] < 0.4
    assert np.array_equal(trained.params, same.params)


# --- when things go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", KEY])
def test_killed_at_any_moment_what_was_appended_is_there_whole(tmp_path: Path, key: bytes) -> None:
    moments = seeded()
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "samples"), key.hex()],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.05))  # the moment is the point
        writer.send_signal(signal.SIGKILL)
        said = writer.communicate()[0].split("\n")
        last = int(said[-2]) if len(said) > 1 else 0
        with store_in(tmp_path, 50, x_shape=(100,), key=key or None) as store:
            assert store.num_seen >= last
            assert store.num_seen % 3 == 0
            seen = store.num_seen
            assert labels(store) == list(range(max(0, seen - 50), seen))


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Let this process write nothing beyond ``num_bytes`` of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_medium_without_room_says_so_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    with (
        files_end_at(50_000),
        pytest.raises(StorageError, match=r"samples: .*; it takes \d+ bytes: make space"),
    ):
        store_in(tmp_path, 100_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [4_500, 12_300, 20_000])
def test_an_append_that_fails_loses_nothing_and_the_next_goes_on(
    tmp_path: Path, limit: int
) -> None:
    """The medium gives out in the journal, or only when it is copied."""
    with store_in(tmp_path, 500) as store:
        store.append(*rows(*range(400)))
        added = 0
        with files_end_at(limit):
            try:
                store.append(*rows(*range(400, 450)))
                added = 50
            except StorageError:
                assert store.num_seen == 400
        store.append(*rows(1000))
        wanted = [*range(400 + added), 1000]
        assert labels(store) == wanted
    with store_in(tmp_path, 500) as store:
        assert labels(store) == wanted


def test_a_full_file_system_cannot_stop_what_was_reserved(tmp_path: Path) -> None:
    with small_disk(tmp_path, 256):
        with store_in(tmp_path, 1000) as store:
            (tmp_path / "other").write_bytes(bytes((256 << 10) - store.num_bytes - 8192))
            with pytest.raises(StorageError, match="make space"):
                SampleStore(tmp_path / "second", 10_000, x_shape=(3,))
            numbers = random.Random(1).sample(range(10_000), 3_000)  # noqa: S311 -- labels
            store.append(*rows(*numbers))
            assert labels(store) == sorted(numbers[-1000:])
        assert {path.name for path in tmp_path.iterdir()} == {"samples", "other"}
