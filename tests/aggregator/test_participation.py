"""Who came how often and how late: counted in versions, stored with them, found after a restart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.actions import Action, Store
from aggregator.fairness import FairnessConfig
from aggregator.participation import Participation
from aggregator.records import DocumentRecord

INVERSE = FairnessConfig(weights="inverse_rate", max_share=0.25)
STALE = FairnessConfig(weights="stale_weight")
NAMES = "abcd"


def made(
    documents: dict[str, bytes], fairness: FairnessConfig = INVERSE, epochs: str = "-"
) -> Participation:
    return Participation(documents, epochs, fairness, is_noted=True)


def keep(documents: dict[str, bytes], actions: list[Action]) -> None:
    for action in actions:
        assert isinstance(action, Store)
        assert isinstance(action.record, DocumentRecord)
        documents[action.record.key] = action.record.data


def told(past: Participation, version: int) -> list[object]:
    """All that anybody may ask."""
    return [
        (
            past.weight(name, version, 3),
            past.group(name, version, 3),
            past.may_train(name),
            past.num_devices({name: 0}),
        )
        for name in NAMES
    ] + [dict(past.fleet)]


def test_a_device_that_comes_every_tenth_version_weighs_as_much_as_ten() -> None:
    past = made({}, FairnessConfig(weights="inverse_rate"))
    for version in range(1, 101):
        late = {"fast": 0, "slow": 9} if version % 10 == 0 else {"fast": 0}
        past.counted(version, late, {})
    assert past.weight("fast", 100, 0) == pytest.approx(1.0)
    assert past.weight("slow", 109, 9) == pytest.approx(10.0)


def test_of_a_new_device_its_staleness_tells_the_pace() -> None:
    past = made({}, FairnessConfig(weights="inverse_rate"))
    past.counted(1, {"a": 0}, {})
    assert past.weight("new", 4, 4) == pytest.approx(5.0)


def test_stale_weights_are_of_a_devices_own_mean() -> None:
    past = made({}, STALE)
    past.counted(1, {"a": 4}, {})
    assert past.weight("a", 1, 4) == pytest.approx(5.0)
    assert past.weight("a", 1, 9) == pytest.approx(1 + 4 + 0.2 * 5)


def test_without_a_rule_everybody_weighs_the_same() -> None:
    past = made({}, FairnessConfig())
    past.counted(9, {"a": 8}, {})
    assert past.weight("a", 20, 10) == 1.0


def test_who_had_more_than_its_share_waits_until_others_came() -> None:
    past = made({}, FairnessConfig(max_share=0.4))
    past.counted(1, {"a": 0, "b": 0}, {})
    assert not past.may_train("a")
    assert past.may_train("c")
    past.counted(2, {"c": 0, "d": 0}, {})
    assert past.may_train("a")


@given(
    st.lists(
        st.dictionaries(st.sampled_from(NAMES), st.integers(0, 30), min_size=1),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.integers(1, 500), min_size=4, max_size=4),
    st.integers(0, 20),
)
def test_after_a_restart_at_any_version_it_knows_the_same(
    versions: list[dict[str, int]], samples: list[int], at: int
) -> None:
    documents: dict[str, bytes] = {}
    through, restarted = made({}), made(documents)
    sizes = dict(zip(NAMES, samples, strict=True))
    for version, late in enumerate(versions, start=1):
        through.counted(version, late, sizes)
        keep(documents, restarted.counted(version, late, sizes))
        if version == at:
            restarted = made(documents)
        assert told(restarted, version) == told(through, version)


def test_only_those_that_a_version_counted_are_stored_with_it() -> None:
    past = made({})
    past.counted(1, {"a": 0, "b": 0}, {})
    keys = [action.record.key for action in past.counted(2, {"b": 1}, {})]  # type: ignore[union-attr] # all are stores of documents
    assert keys == ["participation/", "participation/b"]


def test_who_only_asks_for_weights_of_one_stores_nothing() -> None:
    past = Participation({}, "-", FairnessConfig(), is_noted=False)
    assert past.counted(1, {"a": 0}, {}) == []


def test_another_epoch_begins_anew_also_after_a_restart() -> None:
    documents: dict[str, bytes] = {}
    past = made(documents, epochs="all=1")
    keep(documents, past.counted(1, {"a": 0}, {}))
    assert not made(documents, epochs="all=1").is_outdated
    assert made(documents, epochs="all=2").is_outdated
    assert past.renewed("all=2")
    assert told(past, 1) == told(made(documents, epochs="all=2"), 1)
