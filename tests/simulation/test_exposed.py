"""The argument about what answers expose, on cases that can be done in the head."""

from tests.simulation.exposed import Sum, common_sums, exposed, fewest_devices


def sums(*names: str) -> list[Sum]:
    """Sums of masks; each letter is one mask of one device."""
    return [frozenset((ord(letter), 0) for letter in name) for name in names]


def test_holders_of_the_same_sum_expose_it() -> None:
    assert exposed([sums("abc"), sums("abc"), sums("abc")], 3) == set(sums("abc"))
    assert fewest_devices(sums("abc")) == 3


def test_fewer_holders_than_needed_expose_nothing() -> None:
    assert exposed([sums("abc"), sums("abc")], 3) == set()


def test_holders_of_different_sums_expose_what_they_have_in_common() -> None:
    """Two sums that one has answered apart and the other together add up to the same."""
    assert common_sums([sums("abc", "def"), sums("abcdef")]) == set(sums("abcdef"))
    assert common_sums([sums("abc", "def"), sums("abcde")]) == set()
    assert common_sums([sums("abc"), sums("bcd")]) == set()


def test_a_split_view_exposes_the_difference_of_two_sums() -> None:
    """The attack that 2 (T + 1) > N + t rules out: with half the holders each, it succeeds."""
    halves = [sums("abcd")] * 3 + [sums("abc")] * 3
    assert exposed(halves, 3) == set(sums("abcd", "abc"))
    assert fewest_devices(exposed(halves, 3)) == 1
    assert fewest_devices(exposed(halves, 4)) > 3


def test_combinations_of_sums_are_looked_through() -> None:
    """Of ab, bc and ac each shows two devices; half of ab + ac - bc shows one."""
    assert fewest_devices(sums("ab", "bc")) == 2
    assert fewest_devices(sums("ab", "bc", "ac")) == 1
    assert fewest_devices(sums("abc", "abcde")) == 2


def test_two_masks_of_one_device_are_one_device() -> None:
    two = [frozenset({(1, 0), (1, 1), (2, 0)})]
    assert fewest_devices(two) == 2
