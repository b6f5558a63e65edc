"""The file of slots: a commit is there whole or not at all, whatever happens when."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_sdk.slots import SlotFile
from device_sdk.storage import StorageError
from protocol.errors import ConfigError

NUM_SLOTS, ROW_BYTES = 5, 12
KEY = bytes(range(32))


class PowerCutError(BaseException):
    """The machine is gone."""


class Medium(SlotFile):
    """Keeps what was flushed apart from what was only written; power lasts for some operations.

    Then of each write since the last flush all, the first bytes or nothing has come through, as
    ``luck`` says (in order, from 0 to 1).
    """

    power = 1 << 30
    luck: tuple[float, ...] = ()

    def __init__(self, path: Path, key: bytes = b"", title: str = "test") -> None:
        self.flushed: bytes | None = None
        self.written: list[tuple[int, bytes]] = []
        super().__init__(path, num_slots=NUM_SLOTS, row_bytes=ROW_BYTES, title=title, key=key)

    def _write(self, start: int, data: bytes) -> None:
        self.flushed = self.flushed or self._path.read_bytes()
        self.written.append((start, data))
        self._use_power()
        super()._write(start, data)

    def _flush(self) -> None:
        self._use_power()
        super()._flush()
        self.flushed = self._path.read_bytes()
        self.written.clear()

    def _use_power(self) -> None:
        if self.power == 0:
            self._cut()
        Medium.power -= 1

    def _cut(self) -> None:
        image = bytearray(self.flushed or self._path.read_bytes())
        shares = [*self.luck, *[0.5] * len(self.written)]
        for (start, data), share in zip(self.written, shares, strict=False):
            came = data[: round(share * len(data))]
            image[start : start + len(came)] = came
        self.close()
        self._path.write_bytes(bytes(image))
        raise PowerCutError


def held(file: SlotFile) -> tuple[int, list[bytes | None]]:
    return file.total, file.read(0, NUM_SLOTS)


rows = st.dictionaries(st.integers(0, NUM_SLOTS - 1), st.binary(min_size=12, max_size=12))
shares = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), max_size=20).map(tuple)


FULL = dict.fromkeys(range(NUM_SLOTS), b"\x01" * 12)


@settings(deadline=None)  # each flush is one
@example([FULL, {}, {}], [(7, (0.0,) * 5 + (1.0,)), (5, (0.0,) * 5 + (0.5,))], b"")
@example([{}, FULL, {}], [(10, (0.0,) * 5 + (1.0,))], b"")
@given(
    commits=st.lists(rows, min_size=1, max_size=6),
    cuts=st.lists(st.tuples(st.integers(0, 25), shares), max_size=3),
    key=st.sampled_from([b"", KEY]),
)
def test_a_power_cut_leaves_the_state_before_a_commit_or_the_one_after(
    tmp_path_factory: pytest.TempPathFactory,
    commits: list[dict[int, bytes]],
    cuts: list[tuple[int, tuple[float, ...]]],
    key: bytes,
) -> None:
    """At any write or flush, also while recovering from the last one; unflushed writes get lost.

    The examples: a record came through and the copies of the one before did not; and once more
    after a recovery that had flushed nothing.
    """
    path = tmp_path_factory.mktemp("cut") / "file"
    todo, powers = list(enumerate(commits, 1)), [*cuts, (1 << 30, ())]
    before: tuple[int, list[bytes | None]] = (0, [None] * NUM_SLOTS)
    after = before
    for power, luck in powers:
        Medium.power, Medium.luck = power, luck
        try:
            file = Medium(path, key)
            found = held(file)
            assert found in (before, after)
            before = after = found
            for total, change in [each for each in todo if each[0] > before[0]]:
                after = total, [change.get(i, row) for i, row in enumerate(before[1])]
                file.commit(total, change)
                before = after
                assert held(file) == before
            file.close()
        except PowerCutError:
            continue
    Medium.power = 1 << 30
    file = Medium(path, key)
    assert held(file) == before
    assert before[0] == len(commits)
    file.close()


def test_the_simulated_power_cut_can_lose_what_no_flush_protects(tmp_path: Path) -> None:
    """So the test above can fail: what is written without a flush may come in part."""
    Medium.power = 1 << 30
    file = Medium(tmp_path / "file")
    file.commit(1, {0: b"a" * 12})
    Medium.power, Medium.luck = 0, (0.5,)
    with pytest.raises(PowerCutError):
        file._write(file._slots_at, b"z" * 20)
    Medium.power = 1 << 30
    raw = (tmp_path / "file").read_bytes()
    assert b"z" * 10 in raw
    assert b"z" * 11 not in raw


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_flipped_bit_costs_its_slot_only(tmp_path: Path, key: bytes) -> None:
    file = Medium(tmp_path / "file", key)
    file.commit(3, {slot: bytes([slot]) * 12 for slot in range(NUM_SLOTS)})
    file.commit(4, {0: b"x" * 12})
    file.commit(4, {})
    place = file._slots_at + 2 * file._width + 5
    file.close()
    raw = bytearray((tmp_path / "file").read_bytes())
    raw[place] ^= 1
    (tmp_path / "file").write_bytes(raw)
    file = Medium(tmp_path / "file", key)
    assert held(file) == (4, [b"x" * 12, b"\1" * 12, None, b"\3" * 12, b"\4" * 12])
    file.close()


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_slot_put_in_another_s_place_is_damaged(tmp_path: Path, key: bytes) -> None:
    file = Medium(tmp_path / "file", key)
    file.commit(1, {0: b"a" * 12, 1: b"b" * 12})
    file.commit(2, {})
    file.commit(2, {})
    at, width = file._slots_at, file._width
    file.close()
    raw = bytearray((tmp_path / "file").read_bytes())
    raw[at : at + width], raw[at + width : at + 2 * width] = (
        raw[at + width : at + 2 * width],
        raw[at : at + width],
    )
    (tmp_path / "file").write_bytes(raw)
    file = Medium(tmp_path / "file", key)
    assert file.read(0, 2) == [None, None]
    file.close()


@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 1)])
def test_damaged_journal_areas_lose_no_slot(tmp_path: Path, damaged: tuple[int, ...]) -> None:
    file = Medium(tmp_path / "file", KEY)
    for total in (1, 2, 3, 4):
        file.commit(total, {total - 1: bytes([total]) * 12})
    areas = [file._area(number) for number in damaged]
    file.close()
    raw = bytearray((tmp_path / "file").read_bytes())
    for area in areas:
        raw[area + 20] ^= 1
    (tmp_path / "file").write_bytes(raw)
    file = Medium(tmp_path / "file", KEY)
    assert file.read(0, 4) == [bytes([total]) * 12 for total in (1, 2, 3, 4)]
    assert file.total == (3 if damaged == (0,) else 4)
    file.commit(5, {4: b"e" * 12})
    file.close()
    file = Medium(tmp_path / "file", KEY)
    assert file.total == 5
    assert file.read(3, 2) == [b"\4" * 12, b"e" * 12]
    file.close()


@given(garbage=st.binary(max_size=9000))
@settings(max_examples=50)
def test_garbage_is_no_file_of_slots(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "file"
    path.write_bytes(garbage)
    with pytest.raises(ConfigError, match="choose another path"):
        Medium(path)


def test_a_cut_off_end_costs_the_slots_there(tmp_path: Path) -> None:
    file = Medium(tmp_path / "file")
    file.commit(5, {slot: bytes([slot]) * 12 for slot in range(NUM_SLOTS)})
    file.commit(5, {})
    file.commit(5, {})
    end, whole = file._slots_at + 3 * file._width, file.num_bytes
    file.close()
    os.truncate(tmp_path / "file", end)
    file = Medium(tmp_path / "file")
    assert [row is None for row in file.read(0, 5)] == [False, False, False, True, True]
    assert (tmp_path / "file").stat().st_size == whole
    file.close()


def test_one_at_a_time_may_have_it_open(tmp_path: Path) -> None:
    file = Medium(tmp_path / "file")
    with pytest.raises(StorageError, match="open already"):
        Medium(tmp_path / "file")
    file.close()
    Medium(tmp_path / "file").close()


def test_one_of_another_kind_is_named_and_left_alone(tmp_path: Path) -> None:
    Medium(tmp_path / "file").close()
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(ConfigError, match="not 'other' but 'test'"):
        Medium(tmp_path / "file", title="other")
    assert (tmp_path / "file").read_bytes() == before
