"""Of two devices with one id and one medium, one gives way, and not both."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.twins import Twins

BOOTS = st.binary(min_size=16, max_size=16).map(bytes.hex)


def birth(boot: str) -> bytes:
    return json.dumps({"boot": boot, "sdk": "1"}).encode()


@given(BOOTS, BOOTS)
def test_of_two_that_hear_each_other_one_gives_way(mine: str, theirs: str) -> None:
    ours, others = Twins(mine), Twins(theirs)
    ours.hear(birth(mine), retained=False)
    others.hear(birth(theirs), retained=False)
    ours.hear(birth(theirs), retained=True)
    others.hear(birth(mine), retained=True)
    assert [ours.gives_way, others.gives_way] == [mine < theirs, theirs < mine]


def test_the_birth_of_an_earlier_start_is_nobody_elses() -> None:
    twins = Twins("a")
    twins.hear(birth("b"), retained=True)
    assert not twins.gives_way


def test_who_gave_way_is_there_again_when_its_own_birth_is_kept() -> None:
    twins = Twins("a")
    for boot, retained in (("a", False), ("b", True), ("a", True)):
        twins.hear(birth(boot), retained=retained)
    assert not twins.gives_way


@pytest.mark.parametrize("said", [b"", b"\xff", b"[]", b"{}", b'{"boot": 7}', b"[" * 100_000])
def test_what_is_no_birth_makes_nobody_give_way(said: bytes) -> None:
    twins = Twins("a")
    twins.hear(birth("a"), retained=False)
    twins.hear(said, retained=True)
    assert not twins.gives_way
