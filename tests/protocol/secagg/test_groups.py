"""Groups of a buffer: drawn by nobody, the same for everybody, and nothing else is answered."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given as drawn_from
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.groups import draw_groups
from protocol.secagg.parameters import Parameters
from protocol.secagg.requests import make_request, open_request
from tests.support.enrolment import cohort, parameters

DEVICES = tuple(f"d{number:02}" for number in range(24))
COHORT = cohort(DEVICES, group=4)
ROSTER = COHORT.roster

buffers = st.dictionaries(
    st.integers(0, 23), st.integers(0, (1 << 63) - 1), min_size=12, max_size=24
)


@drawn_from(buffers)
def test_groups_part_a_buffer_and_only_the_last_is_larger(buffer: dict[int, int]) -> None:
    groups = draw_groups(ROSTER, buffer)
    assert sorted(dealer for group in groups for dealer in group) == sorted(buffer)
    assert [len(group) for group in groups[:-1]] == [4] * (len(buffer) // 4 - 1)
    assert 4 <= len(groups[-1]) < 8


@drawn_from(buffers)
def test_everybody_draws_the_same_whatever_order_masks_were_named_in(
    buffer: dict[int, int],
) -> None:
    backwards = dict(reversed(buffer.items()))
    assert draw_groups(ROSTER, backwards) == draw_groups(ROSTER, buffer)


def test_the_draw_is_as_specified() -> None:
    """Ascending BLAKE2b-256, person "fedbus.groups", of roster hash, dealer and counter."""
    buffer = {dealer: 7 * dealer for dealer in range(14)}

    def drawn(dealer: int) -> bytes:
        name = ROSTER.hash + dealer.to_bytes(2, "little") + buffer[dealer].to_bytes(8, "little")
        return hashlib.blake2b(name, digest_size=32, person=b"fedbus.groups").digest()

    order = sorted(buffer, key=drawn)
    expected = [order[:4], order[4:8], order[8:]]
    assert [list(group) for group in draw_groups(ROSTER, buffer)] == [sorted(g) for g in expected]


def test_other_masks_give_other_groups_and_neighbours_change() -> None:
    """Over many buffers each two devices meet about as often: 3 of 23 times in groups of four."""
    met: Counter[int] = Counter()
    for number in range(600):
        groups = draw_groups(ROSTER, dict.fromkeys(range(24), number))
        met.update(next(group for group in groups if 0 in group))
    others = [met[dealer] for dealer in range(1, 24)]
    assert 40 < min(others) <= max(others) < 120  # 600 * 3 / 23 = 78, five deviations of 8


def drawn(dealer: int, counter: int) -> bytes:
    name = ROSTER.mask_id(dealer, counter)
    return hashlib.blake2b(name, digest_size=32, person=b"fedbus.groups").digest()


def beside(victim: int, dealer: int, tries: range) -> int:
    """Return the counter that puts a dealer next after a mask of another, of so many it tries."""
    mark = int.from_bytes(drawn(0, victim), "big")
    return min(
        tries, key=lambda counter: (int.from_bytes(drawn(dealer, counter), "big") - mark) % 2**256
    )


def test_a_dealer_that_grinds_its_masks_name_gains_a_place_beside_one_other() -> None:
    """The limit of it (docs/adr/0030): in groups of four 3 of 4 times, instead of 3 of 23.

    It has to know which mask the other will use; a second one cannot make it sure, nor can all
    that grind have more groups than they are.
    """
    met: Counter[str] = Counter()
    for number in range(150):
        buffer = {dealer: 1000 * number + dealer for dealer in range(24)}
        for name, counter in (
            ("by chance", buffer[1]),
            ("grinding", beside(buffer[0], 1, range(2000 * number, 2000 * number + 300))),
        ):
            groups = draw_groups(ROSTER, {**buffer, 1: counter})
            met[name] += any({0, 1} <= set(group) for group in groups)
    assert met["by chance"] < 40  # 150 * 3 / 23 = 20
    assert 90 < met["grinding"] < 135  # 150 * 3 / 4 = 112


def test_a_request_names_the_buffer_and_what_is_summed_follows() -> None:
    buffer = {dealer: 100 + dealer for dealer in range(13)}
    groups = draw_groups(ROSTER, buffer)
    for number, group in enumerate(groups, start=1):
        request = make_request(ROSTER, buffer, COHORT.aggregator, group=number)
        asked = open_request(request, ROSTER)
        assert (asked.buffer, asked.group) == (buffer, number)
        assert asked.masks == {dealer: buffer[dealer] for dealer in group}
    for number in (0, len(groups) + 1):
        with pytest.raises(RemoteProtocolError) as refused:
            open_request(make_request(ROSTER, buffer, COHORT.aggregator, group=number), ROSTER)
        assert refused.value.reason == refusals.WRONG_MEMBERS


def test_without_groups_rosters_and_requests_are_what_they_were() -> None:
    plain = cohort(DEVICES)
    assert len(ROSTER.body) == len(plain.roster.body) + 1
    buffer = dict.fromkeys(range(8), 1)
    assert draw_groups(plain.roster, buffer) == (tuple(range(8)),)
    (of_plain, of_groups) = (
        len(make_request(each.roster, dict.fromkeys(range(12), 1), each.aggregator, group=g).body)
        for each, g in ((plain, 0), (COHORT, 1))
    )
    assert of_groups == of_plain + 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (parameters(24, group=3), "min_contributors = 4"),  # t = 2
        (parameters(24, group=9), "raise the goal to 27"),
        (parameters(24, group=4, scheme="pairwise"), "use seedmask"),
    ],
)
def test_groups_that_would_show_too_much_or_too_little_are_refused(
    given: Parameters, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        given.check()
