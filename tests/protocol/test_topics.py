"""Topics: spelled and parsed in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, RemoteProtocolError
from protocol.topics import MAX_SLASHES, RULES, SHELVES, Address, Kind, Role, Topics, grants

TOPICS = Topics("fedbus/1", "digits")
SPELLED = {
    TOPICS.state("a-1"): Address(Kind.STATE, device="a-1"),
    TOPICS.info("a-1"): Address(Kind.INFO, device="a-1"),
    TOPICS.telemetry("a-1"): Address(Kind.TELEMETRY, device="a-1"),
    TOPICS.out("a-1"): Address(Kind.OUT, device="a-1"),
    TOPICS.into("a-1"): Address(Kind.IN, device="a-1"),
    TOPICS.update(3, "a-1"): Address(Kind.UPDATE, device="a-1", part=3),
    TOPICS.share("b", "a-1"): Address(Kind.SHARE, device="a-1", to="b"),
    TOPICS.plan(): Address(Kind.PLAN),
    TOPICS.roster("pumps"): Address(Kind.ROSTER, cohort="pumps"),
    TOPICS.support(): Address(Kind.SUPPORT),
    TOPICS.manifest(): Address(Kind.MANIFEST),
    TOPICS.model(12, 4): Address(Kind.MODEL, shelf=12, index=4),
    TOPICS.difference(12, 4): Address(Kind.DIFFERENCE, shelf=12, index=4),
    TOPICS.monitor("rounds"): Address(Kind.MONITOR, what="rounds"),
}


@pytest.mark.parametrize(("topic", "address"), SPELLED.items())
def test_parse_inverts_spelling(topic: str, address: Address) -> None:
    assert TOPICS.parse(topic) == address


def test_versions_share_names_a_long_way_apart() -> None:
    assert TOPICS.model(12 + SHELVES, 4) == TOPICS.model(12, 4)
    assert TOPICS.difference_filter(12 + SHELVES) == TOPICS.difference_filter(12)
    assert len({TOPICS.model_filter(version) for version in range(7, 7 + SHELVES)}) == SHELVES


def test_every_kind_is_spelled_and_ruled() -> None:
    assert {address.kind for address in SPELLED.values()} == set(Kind) == set(RULES)


def test_no_topic_is_deeper_than_the_strictest_broker_takes() -> None:
    deep = Topics("a/b/c", "t")
    assert deep.model(1, 1).count("/") <= MAX_SLASHES


@given(st.text())
def test_any_other_topic_is_refused(topic: str) -> None:
    if topic not in SPELLED:
        with pytest.raises(RemoteProtocolError):
            TOPICS.parse(topic)


@given(st.text(alphabet="/devupmonin0123+#", max_size=30))
def test_any_other_leaf_is_refused_or_spelled_again(leaf: str) -> None:
    try:
        address = TOPICS.parse(f"fedbus/1/digits/{leaf}")
    except RemoteProtocolError:
        return
    assert "+" not in leaf
    assert "#" not in leaf
    assert address.kind in Kind


@pytest.mark.parametrize("task", ["", "Digits", "a/b", "a+", "a b", "x" * 65, "ü"])
def test_a_task_that_cannot_be_spelled_is_refused(task: str) -> None:
    with pytest.raises(ConfigError, match="a-z"):
        Topics("fedbus/1", task)


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a//b", "a/b/c/d", "A", "a/+"])
def test_a_prefix_that_cannot_be_spelled_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        Topics(prefix, "t")


def test_a_device_writes_only_what_carries_its_own_id() -> None:
    written = [grant.filter for grant in grants(Role.DEVICE, "p") if grant.access == "write"]
    assert written
    assert all("{device}" in topic_filter for topic_filter in written)


def test_a_device_reads_its_own_inbox_and_what_is_for_all() -> None:
    read = {grant.filter for grant in grants(Role.DEVICE, "p") if grant.access == "read"}
    assert "p/+/dev/{device}/in" in read
    assert "p/+/share/{device}/+" in read
    assert not [f for f in read if "/out" in f or "/up/" in f or "dev/+" in f]


def test_a_device_cannot_say_who_is_in_a_cohort_nor_which_coordinates_count() -> None:
    rights = {(grant.access, grant.filter) for grant in grants(Role.DEVICE, "p")}
    assert {("read", "p/+/roster/+"), ("read", "p/+/support")} <= rights
    assert not {("write", "p/+/roster/+"), ("write", "p/+/support")} & rights


def test_a_member_hears_its_roster_the_support_and_its_own_shares() -> None:
    assert TOPICS.member_news_filters("pumps") == (
        "fedbus/1/digits/roster/pumps",
        "fedbus/1/digits/support",
    )
    assert TOPICS.shares_to("a-1") == "fedbus/1/digits/share/a-1/+"


def test_only_devices_and_newcomers_read_shares() -> None:
    assert RULES[Kind.SHARE].readers == {Role.DEVICE, Role.NEWCOMER}
    read = [grant.filter for grant in grants(Role.DEVICE, "p") if "share" in grant.filter]
    assert read == ["p/+/share/+/{device}", "p/+/share/{device}/+"]


def test_a_newcomer_has_a_share_topic_and_nothing_that_an_aggregator_hears() -> None:
    assert {(grant.access, grant.filter) for grant in grants(Role.NEWCOMER, "p")} == {
        ("write", "p/+/share/+/{device}"),
        ("read", "p/+/share/{device}/+"),
    }


def test_a_monitor_writes_nothing_and_reads_no_updates() -> None:
    rights = list(grants(Role.MONITOR, "p"))
    assert {grant.access for grant in rights} == {"read"}
    assert not [g for g in rights if "/up/" in g.filter or "share" in g.filter]
