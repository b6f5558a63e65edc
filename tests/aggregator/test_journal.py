"""Segment files: what rows name is given back as it was, everything else is gone at a start."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.faults import no_fault
from aggregator.journal import HEADER_BYTES, Journal, Place
from aggregator.store_errors import StoreError

ENTRIES = [(7, b"seven"), (8, b""), (9, b"nine" * 100)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def opened(folder: Path, ends: dict[int, int] | None = None, segment_bytes: int = 1000) -> Journal:
    return Journal(folder, ends or {}, fault=no_fault, segment_bytes=segment_bytes)


def named(places: list[Place]) -> dict[int, int]:
    return {place.segment: place.offset + HEADER_BYTES + place.length for place in places}


def read(journal: Journal, places: list[Place]) -> Iterator[bytes]:
    sequences = [sequence for sequence, _ in ENTRIES]
    return journal.read(zip(sequences, places, strict=True))


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=30)
@given(
    groups=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=8), max_size=8),
    segment_bytes=st.integers(1, 1000),
)
def test_a_reopened_journal_gives_back_every_named_payload(
    groups: list[list[bytes]], segment_bytes: int
) -> None:
    with TemporaryDirectory() as directory:
        folder = Path(directory) / "journal"
        payloads = [payload for group in groups for payload in group]
        places: list[Place] = []
        with closing(opened(folder, segment_bytes=segment_bytes)) as journal:
            for group in groups:
                places += journal.append(list(enumerate(group, start=len(places))))
        with closing(opened(folder, named(places))) as journal:
            assert list(journal.read(enumerate(places))) == payloads


def test_more_entries_than_one_system_call_takes_are_all_written(folder: Path) -> None:
    entries = [(number, b"%d" % number) for number in range(3000)]
    with closing(opened(folder)) as journal:
        places = journal.append(entries)
        found = list(journal.read(enumerate(places)))
    assert found == [payload for _, payload in entries]


def test_what_no_row_names_is_gone_after_a_start(folder: Path) -> None:
    with closing(opened(folder, segment_bytes=1)) as journal:
        first = journal.append(ENTRIES)
        journal.append([(10, b"orphan")])
    with (folder / "1.seg").open("ab") as file:
        file.write(b"torn")
    size = first[-1].offset + HEADER_BYTES + first[-1].length
    with closing(opened(folder, named(first))) as journal:
        assert segments(folder) == ["1.seg"]
        assert (folder / "1.seg").stat().st_size == size
        assert list(read(journal, first)) == [payload for _, payload in ENTRIES]


def test_a_start_never_appends_to_an_old_segment(folder: Path) -> None:
    with closing(opened(folder)) as journal:
        first = journal.append(ENTRIES)
    with closing(opened(folder, named(first))) as journal:
        assert journal.append([(10, b"ten")])[0].segment == 2


def test_a_segment_ends_once_it_is_large_enough(folder: Path) -> None:
    with closing(opened(folder, segment_bytes=100)) as journal:
        numbers = [journal.append([(n, b"x" * 60)])[0].segment for n in range(5)]
    assert numbers == [1, 1, 2, 2, 3]


def test_keep_deletes_unnamed_segments_but_not_the_one_being_written(folder: Path) -> None:
    with closing(opened(folder, segment_bytes=1)) as journal:
        for number in range(4):
            journal.append([(number, b"x")])
        journal.keep({2})
        assert segments(folder) == ["2.seg", "4.seg"]
        journal.keep(set())
        assert segments(folder) == ["4.seg"]
        assert not journal.has_old_segments()


def test_foreign_files_in_the_folder_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.seg").write_text("mine")
    opened(folder).close()
    assert segments(folder) == ["notes.seg"]


@pytest.mark.parametrize("offset", range(HEADER_BYTES + len(b"seven")))
def test_one_wrong_byte_is_reported_with_file_and_offset(folder: Path, offset: int) -> None:
    with closing(opened(folder)) as journal:
        places = journal.append(ENTRIES)
        data = bytearray((folder / "1.seg").read_bytes())
        data[offset] ^= 1
        (folder / "1.seg").write_bytes(data)
        with pytest.raises(StoreError, match=r"1\.seg: the entry at offset 0 \(sequence 7\)"):
            list(read(journal, places))


def test_a_segment_cut_short_is_reported_with_file_and_offset(folder: Path) -> None:
    with closing(opened(folder)) as journal:
        places = journal.append(ENTRIES)
        data = (folder / "1.seg").read_bytes()
        (folder / "1.seg").write_bytes(data[:-1])
        with pytest.raises(StoreError, match=rf"1\.seg: the entry at offset {places[2].offset} "):
            list(read(journal, places))


def test_an_entry_of_another_sequence_is_not_taken_for_it(folder: Path) -> None:
    with closing(opened(folder)) as journal:
        places = journal.append(ENTRIES)
        with pytest.raises(StoreError, match="damaged"):
            list(journal.read([(8, places[0])]))


def test_a_missing_segment_is_reported_by_name(folder: Path) -> None:
    with closing(opened(folder)) as journal:
        places = journal.append(ENTRIES)
        (folder / "1.seg").unlink()
        with pytest.raises(StoreError, match=r"1\.seg is missing"):
            list(read(journal, places))
