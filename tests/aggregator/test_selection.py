"""Who waits, who is drawn among them, and what of the settings is refused."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.links import Links
from aggregator.scheduling.longest_waiting import LongestWaiting
from aggregator.scheduling.queues import Queues
from aggregator.scheduling.rules import Knowledge, Moment, Pick, Rule, Seat
from aggregator.scheduling.selection import OortConfig, SelectionConfig
from aggregator.scheduling.turns import Turns
from aggregator.scheduling.uniform import Uniform
from protocol.errors import ConfigError
from protocol.stream import Stream
from tests.support.desk import task_config
from tests.support.secure_desk import secure_settings, secure_task

SITES = ("", "north", "south")
DEVICES = [f"d{index}" for index in range(12)]
MOMENT = Moment(version=0, left_s=60.0, per_version=4, budget_bytes=100)
SEATS = [Seat(0, 0)]

steps = st.lists(st.tuples(st.booleans(), st.sampled_from(DEVICES), st.sampled_from(SITES)))


def knowledge(queues: Queues) -> Knowledge:
    return Knowledge(queues, Links(1, 0.0), Turns(0, 99, 0), Stream(bytes(32)), lambda _: 1.0)


def picked(rule: Rule, sites: tuple[str, ...]) -> list[Pick]:
    return rule.pick(SEATS, sites, MOMENT)


@given(steps, st.sets(st.sampled_from(SITES)), st.integers(0, 14))
def test_queues_are_a_list_of_who_waits(
    events: list[tuple[bool, str, str]], open_sites: set[str], size: int
) -> None:
    queues, expected = Queues(), dict[str, str]()
    for comes, device, site in events:
        if not comes:
            queues.remove(device)
            expected.pop(device, None)
        elif device not in expected:
            queues.add(device, site)
            expected[device] = site
    among = [device for device, site in expected.items() if site in open_sites]
    assert len(queues) == len(expected)
    assert queues.sites == Counter(expected.values())
    assert queues.oldest(open_sites) == (among[0] if among else None)
    sample = queues.sample(open_sites, size, Stream(bytes(32)))
    assert len(sample) == len(set(sample)) == min(size, len(among))
    assert set(sample) <= set(among)
    drawn = queues.draw(open_sites, Stream(bytes(32)))
    assert drawn in among if among else drawn is None


def test_uniform_draws_everybody_equally_often_whatever_the_site() -> None:
    queues = Queues()
    for index in range(10):
        queues.add(f"d{index}", SITES[index % 3 if index < 3 else 1])
    rule = Uniform(knowledge(queues))
    counts = Counter(picked(rule, SITES)[0].device for _ in range(2000))
    assert len(counts) == 10
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 27.9  # 99.9 % of chi2(9)


def test_uniform_draws_somebody_else_for_one_who_would_be_too_late() -> None:
    queues = Queues()
    known = knowledge(queues)
    for device in ("slow", "fast"):
        queues.add(device, "")
    known.links.arrived("slow", 0, elapsed_s=90.0, upload_after_s=0.0, in_time=True)
    counts = Counter(picked(Uniform(known), ("",))[0].device for _ in range(200))
    assert counts["slow"] <= 6
    queues.remove("fast")
    assert picked(Uniform(known), ("",)) == [Pick("slow", 0)]


def test_first_come_first_served_over_the_open_sites() -> None:
    queues = Queues()
    for device, site in (("a", "north"), ("b", ""), ("c", "north")):
        queues.add(device, site)
    rule = LongestWaiting(knowledge(queues))
    assert picked(rule, ("", "north")) == [Pick("a", 0)]
    assert picked(rule, ("",)) == [Pick("b", 0)]
    assert picked(rule, ("south",)) == []


def test_losses_are_shrunk_to_the_devices_mean_and_that_to_the_prior() -> None:
    links = Links(2, 1.0)
    assert links.known("x").losses().tolist() == pytest.approx([0.1, 0.1])
    for _ in range(400):
        links.lost("x", 0)
        links.arrived("x", 1, elapsed_s=3.0, upload_after_s=0.0, in_time=True)
    bad, good = links.known("x").losses()
    assert bad > 0.95
    assert good < 0.05
    links.lost("y", 0)
    first, second = links.known("y").losses()
    assert 0.1 < second < first < 1.0, "the other slot is suspected, too, but less"
    assert links.completion == pytest.approx(0.5, abs=0.02)


def test_how_long_a_device_takes_does_not_show_while_it_waits_for_its_slot() -> None:
    links = Links(8, 2.0)
    links.arrived("x", 5, elapsed_s=10.4, upload_after_s=10.0, in_time=True)
    assert links.expected_s("x", 0.0, 0) == 0.0, "nothing is known"
    links.arrived("x", 0, elapsed_s=3.0, upload_after_s=0.0, in_time=True)
    quick = links.expected_s("x", 0.0, 0)
    links.arrived("x", 5, elapsed_s=10.4, upload_after_s=10.0, in_time=True)
    assert links.expected_s("x", 0.0, 0) == quick < 10.4
    assert links.expected_s("x", 14.0, 0) == 14.0


def test_links_are_forgotten_in_the_order_in_which_they_were_heard_of() -> None:
    links = Links(1, 1.0, max_devices=3)
    for device in ("a", "b", "c", "a", "d"):
        links.lost(device, 0)
    assert len(links) == 3
    assert [each for each in "abcd" if links.get(each) is None] == ["b"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rule": "best"}, "use longest_waiting, uniform, hungarian, oort"),
        ({"slots": 65}, "slots must be from 0 to 64"),
        ({"deadline_s": -1.0}, "deadline_s must be from 0"),
        ({"every_versions": -1}, "every_versions must be from 0"),
        ({"freshness": 5.0}, "freshness must be from 0 to 4"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SelectionConfig(**settings)  # type: ignore[arg-type] # as a file has them


def test_a_credit_that_no_version_fits_is_refused_with_what_it_needs() -> None:
    selection = SelectionConfig(max_outstanding_bytes=100)
    config = task_config(selection=selection, buffered=Buffered(goal=10))
    with pytest.raises(ConfigError, match=r"need \d{4} bytes: raise it"):
        config.check()
    task_config(selection=SelectionConfig(max_outstanding_bytes=5000)).check()


def test_under_masks_a_rule_that_looks_at_single_updates_is_refused() -> None:
    norm = SelectionConfig(rule="oort", oort=OortConfig(utility="norm"))
    with pytest.raises(ConfigError, match=r'selection.oort.utility = "norm" looks at single'):
        secure_settings().check(secure_task(selection=norm))
    for rule in ("uniform", "hungarian", "oort"):
        secure_settings().check(secure_task(selection=SelectionConfig(rule=rule)))


def test_rounds_that_wait_for_all_at_every_stage_have_no_slots() -> None:
    for selection in (SelectionConfig(slots=4), SelectionConfig(rule="hungarian")):
        with pytest.raises(ConfigError, match='slots would hold a round of "pairwise" up'):
            selection.check_masked(is_pairwise=True)
    SelectionConfig(rule="oort").check_masked(is_pairwise=True)
