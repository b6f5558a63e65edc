"""The same seed gives the same numbers, however they are asked for, and each equally often."""

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import randombytes_buf_deterministic

from protocol.errors import LocalProtocolError
from protocol.stream import PAGE_BYTES, SEED_BYTES, Stream, derive, page

SEED = bytes(range(SEED_BYTES))
seeds = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)
labels = st.lists(st.one_of(st.text(max_size=4), st.binary(max_size=4), st.integers()), max_size=4)


class SlowStream:
    """The rules of `Stream`, one number at a time."""

    def __init__(self, seed: bytes, num_pages: int = 2) -> None:
        pages = []
        for index in range(num_pages):
            hashed = blake2b(index.to_bytes(8, "little"), key=seed, digest_size=32,
                             person=b"fedbus.stream")  # fmt: skip
            pages.append(randombytes_buf_deterministic(PAGE_BYTES, hashed.digest()))
        self.data = b"".join(pages)
        self.at = 0

    def word(self, num_bytes: int) -> int:
        self.at += num_bytes
        return int.from_bytes(self.data[self.at - num_bytes : self.at], "little")

    def integer(self, bound: int) -> int:
        while (word := self.word(8)) >= 2**64 // bound * bound:
            pass
        return word % bound

    def subset(self, size: int, num_chosen: int) -> list[int]:
        num_drawn = min(num_chosen, size - num_chosen)
        drawn: set[int] = set()
        while len(drawn) < num_drawn:
            drawn.add(self.integer(size))
        chosen = drawn if num_drawn == num_chosen else set(range(size)) - drawn
        return sorted(chosen)

    def permutation(self, size: int) -> list[int]:
        words = [self.word(8) for _ in range(size)]
        return sorted(range(size), key=words.__getitem__)


@given(seeds, st.lists(st.integers(0, 2 * PAGE_BYTES), max_size=5))
def test_bytes_do_not_depend_on_how_they_are_asked_for(seed: bytes, sizes: list[int]) -> None:
    stream = Stream(seed)
    assert b"".join(stream.bytes(size) for size in sizes) == Stream(seed).bytes(sum(sizes))


@given(seeds, st.integers(1, 2**63), st.lists(st.integers(0, 40), max_size=5))
def test_integers_are_those_of_the_rule_in_pieces_of_any_size(
    seed: bytes, bound: int, sizes: list[int]
) -> None:
    stream, slow = Stream(seed), SlowStream(seed)
    for size in sizes:
        assert stream.integers(bound, size).tolist() == [slow.integer(bound) for _ in range(size)]
    assert stream.bytes(8) == slow.data[slow.at : slow.at + 8]


@pytest.mark.parametrize("num_bytes", [0, 1, 63, 64, 65, PAGE_BYTES - 1, PAGE_BYTES])
def test_a_page_begins_alike_however_much_of_it_is_made(num_bytes: int) -> None:
    stream = Stream(bytes(range(32)))
    pages = stream.bytes(PAGE_BYTES), stream.bytes(PAGE_BYTES)
    for index, whole in enumerate(pages):
        assert page(bytes(range(32)), index, num_bytes) == whole[:num_bytes]
        assert page(bytes(range(32)), index) == whole


def test_a_third_of_the_words_is_skipped_at_the_worst_bound() -> None:
    stream, slow = Stream(SEED), SlowStream(SEED)
    bound = 2**64 // 3 + 1  # 2**64 mod bound is nearly the bound: a biased draw would show
    assert stream.integers(bound, 500).tolist() == [slow.integer(bound) for _ in range(500)]
    assert slow.at > 8 * 650


@given(seeds, st.lists(st.integers(0, 40), max_size=5))
def test_uniform_numbers_are_exact_multiples_in_pieces_of_any_size(
    seed: bytes, sizes: list[int]
) -> None:
    stream, slow = Stream(seed), SlowStream(seed)
    for size in sizes:
        numbers = stream.uniform(size)
        assert numbers.dtype == np.float32
        assert numbers.tolist() == [(slow.word(4) >> 8) / 2**24 for _ in range(size)]


@given(seeds, st.integers(1, 300), st.data())
def test_a_subset_is_that_of_the_rule(seed: bytes, size: int, data: st.DataObject) -> None:
    num_chosen = data.draw(st.integers(0, size))
    stream, slow = Stream(seed), SlowStream(seed)
    assert stream.subset(size, num_chosen).tolist() == slow.subset(size, num_chosen)
    assert stream.bytes(8) == slow.data[slow.at : slow.at + 8]


@given(seeds, st.integers(0, 300))
def test_a_permutation_is_that_of_the_rule(seed: bytes, size: int) -> None:
    order = Stream(seed).permutation(size)
    assert order.tolist() == SlowStream(seed).permutation(size)
    assert order.dtype == np.int64


def test_integers_are_equally_likely() -> None:
    counts = np.bincount(Stream(SEED).integers(7, 70_000), minlength=7)
    chi_squared = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi_squared < 22.5  # 6 degrees of freedom: exceeded by chance once in 1,000 seeds


def test_every_coordinate_is_chosen_equally_often() -> None:
    stream = Stream(SEED)
    counts = sum(np.bincount(stream.subset(20, 5), minlength=20) for _ in range(4_000))
    assert np.abs(counts - 1_000).max() < 4.5 * np.sqrt(4_000 * 0.25 * 0.75)


@given(seeds, labels, labels)
def test_different_labels_give_different_seeds(
    seed: bytes, some: list[str | bytes | int], others: list[str | bytes | int]
) -> None:
    same = [(type(a), a) for a in some] == [(type(b), b) for b in others]
    assert (derive(seed, *some) == derive(seed, *others)) == same


def test_labels_are_not_run_together() -> None:
    texts = [("ab", "c"), ("a", "bc"), ("abc",), (b"ab", "c"), ("a", "b"), ("asb",), ("1", "2")]
    cases = [*texts, (1, 2), (12,), (-1,), ()]
    assert len({derive(SEED, *case) for case in cases}) == len(cases)
    assert derive(SEED) != SEED


def test_a_derived_seed_is_no_part_of_the_stream() -> None:
    assert derive(SEED, 0) not in Stream(SEED).bytes(PAGE_BYTES)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_our_mistake(seed: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Stream(seed)
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        derive(seed, "label")


def test_arguments_out_of_range_are_our_mistake() -> None:
    stream = Stream(SEED)
    for bound in (0, -1, 2**63 + 1):
        with pytest.raises(LocalProtocolError):
            stream.integers(bound, 1)
    for num_chosen in (-1, 6):
        with pytest.raises(LocalProtocolError):
            stream.subset(5, num_chosen)
    with pytest.raises(LocalProtocolError):
        stream.bytes(-1)
