"""The coordinates that masked updates have in common: how they move, and what late ones get."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aggregator.actions import Store
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.supports import Supports, check_support
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import Lease, Refusal
from protocol.topics import Topics
from protocol.vectors.packing import parse_codec
from tests.aggregator.conftest import MakeSecure
from tests.support.desk import Vector
from tests.support.secure_desk import NAMES, SecureDesk

SIZE = 402
WIDE: Mapping[str, Any] = {
    "input": [200],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
FOUR = ("a", "b", "c", "d")
TOPICS = Topics("fedbus/1", "t")


def wide(make_secure: MakeSecure, support: str, every: int = 2, **settings: Any) -> SecureDesk:
    desk = make_secure(
        model=WIDE, secure={"support": support, "support_every": every, "bits": 22}, **settings
    )
    desk.stock_up(8)
    return desk


def step_of(desk: SecureDesk, version: int) -> Vector:
    before, after = desk.desk.store.params(version - 1), desk.desk.store.params(version)
    assert before is not None
    assert after is not None
    return np.asarray(np.frombuffer(after, "<f4") - np.frombuffer(before, "<f4"))


def versions(desk: SecureDesk, number: int) -> None:
    """Let so many versions come of full buffers."""
    for _ in range(number):
        desk.train(*FOUR)
        desk.answer(*NAMES)


# --- sums on a support -------------------------------------------------------------------------


def test_a_randk_sum_is_enlarged_and_is_zero_elsewhere(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "randk-0.1")
    ids = desk.train(*FOUR)
    desk.answer(*NAMES)
    where = desk.coordinates(0)
    assert where is not None
    assert where.size == 41
    expected = np.zeros(SIZE, np.float32)
    expected[where] = desk.expected(ids) * SIZE / 41
    np.testing.assert_allclose(desk.desk.step, expected, atol=10 * desk.tolerance(4))


def test_a_support_is_chosen_among_what_is_trained(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1", training={"trainable": ["*.weight"]})
    before = desk.coordinator.versions.params.copy()
    num_trained = desk.coordinator.trained.layout.size
    assert num_trained < SIZE
    ids = desk.train(*FOUR)
    desk.answer(*NAMES)
    where = desk.coordinates(0)
    assert where is not None
    moved = desk.coordinator.versions.params - before
    expected = np.zeros(num_trained, np.float32)
    expected[where] = desk.expected(ids)
    subset = desk.coordinator.trained
    np.testing.assert_allclose(subset.take(moved), expected, atol=2 * desk.tolerance(4))
    assert np.count_nonzero(moved) == np.count_nonzero(subset.take(moved))


def test_a_plans_sum_is_as_it_was_sent_and_is_zero_elsewhere(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1")
    ids = desk.train(*FOUR)
    desk.answer(*NAMES)
    where = desk.coordinates(0)
    assert where is not None
    expected = np.zeros(SIZE, np.float32)
    expected[where] = desk.expected(ids)
    np.testing.assert_allclose(desk.desk.step, expected, atol=desk.tolerance(4))


def test_a_plan_names_what_has_moved_most(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.5", every=1)
    moving = np.zeros(SIZE, np.float32)
    first = desk.coordinates(desk.support)
    assert first is not None
    moving[first[:100]] = 0.5
    desk.train(*FOUR, delta=moving)
    desk.answer(*NAMES)
    assert desk.support == 1
    second = desk.coordinates(1)
    assert second is not None
    assert set(first[:100]) <= set(second)
    assert not np.array_equal(first, second)


def test_every_coordinate_is_visited(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.2", every=1)
    visited: set[int] = set()
    for number in range(60):
        supports = supports_of(parse_codec("plan-0.2/seedmask"), version=number)
        where = supports.coordinates(number)
        assert where is not None
        visited |= set(where.tolist())
    assert len(visited) == SIZE
    assert desk.support == 0


def supports_of(
    spec: Any, *, version: int = 0, every: int = 1, documents: Mapping[str, bytes] | None = None
) -> Supports:
    return Supports(
        TOPICS,
        spec,
        size=SIZE,
        every=every,
        documents=documents or {},
        params=np.zeros(SIZE, np.float32),
        version=version,
    )


# --- late ones ---------------------------------------------------------------------------------


def test_late_updates_of_the_last_support_have_a_buffer_of_their_own(
    make_secure: MakeSecure,
) -> None:
    desk = wide(make_secure, "plan-0.1", every=2)
    late = {name: desk.lease(name) for name in ("e", "f", "g")}
    old = desk.support
    versions(desk, 2)
    assert desk.support == 2
    for name, lease in late.items():
        desk.send(name, lease, desk.delta_of(name), support=old)
    desk.train("a", "b")
    assert sorted((b.support, len(b.ids)) for b in desk.secure.buffers) == [(0, 3), (2, 2)]
    desk.wait(61)  # the late ones are enough
    ids = [lease.lease_id for lease in late.values()]
    desk.answer(*NAMES)
    assert desk.version == 3
    expected = np.zeros(SIZE, np.float32)
    expected[desk.coordinates(old)] = desk.expected(ids)
    np.testing.assert_allclose(step_of(desk, 3), expected, atol=desk.tolerance(3))


def test_updates_of_the_last_support_but_one_are_refused(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1", every=1)
    lease = desk.lease("e")
    old = desk.support
    versions(desk, 2)
    desk.send("e", lease, desk.delta_of("e"), support=old)
    refusal = desk.desk.last("e")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.STALE_SUPPORT
    assert refusal.reason in refusals.FOLDED


@pytest.mark.parametrize("support", [1, 7, 1 << 40])
def test_a_support_that_never_was_is_refused(make_secure: MakeSecure, support: int) -> None:
    desk = wide(make_secure, "plan-0.1", every=5)
    lease = desk.lease("a")
    desk.supports[support] = b""
    desk.send("a", lease, desk.delta_of("a"), support=support)
    refusal = desk.desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.STALE_SUPPORT


@pytest.mark.parametrize("restarts", [False, True])
def test_a_buffer_whose_support_ends_is_summed_by_its_own_coordinates(
    make_secure: MakeSecure, *, restarts: bool
) -> None:
    """Its support is forgotten only after the sum: what was named is not drawn."""
    patient = Buffered(goal=4, min_contributors=3, max_wait_s=10_000.0)
    desk = wide(make_secure, "plan-0.1", every=1, buffered=patient)
    versions(desk, 1)
    old = desk.support
    assert old == 1
    assert desk.supports[old]
    late = {name: desk.lease(name) for name in ("e", "f", "g")}
    versions(desk, 1)
    for name, lease in late.items():
        desk.send(name, lease, desk.delta_of(name), support=old)
    assert len(desk.requests("h")) == 2
    versions(desk, 1)  # now support 1 is the last but one
    assert len(desk.requests("h")) == 4
    if restarts:
        desk.come_back()
    desk.answer(*NAMES)
    desk.wait(3)
    assert desk.version == 4
    expected = np.zeros(SIZE, np.float32)
    expected[desk.coordinates(old)] = desk.expected([each.lease_id for each in late.values()])
    np.testing.assert_allclose(step_of(desk, 4), expected, atol=desk.tolerance(3))


def test_too_few_late_updates_are_given_up_with_their_support(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1", every=1)
    late = {name: desk.lease(name) for name in ("e", "f")}
    old = desk.support
    versions(desk, 1)
    for name, lease in late.items():
        desk.send(name, lease, desk.delta_of(name), support=old)
    versions(desk, 1)
    assert desk.refusals() == {refusals.STALE_SUPPORT: 2}
    assert len(desk.coordinator.buffers) == 0


def test_updates_that_wait_for_shares_are_given_up_with_their_support(
    make_secure: MakeSecure,
) -> None:
    desk = wide(make_secure, "plan-0.1", every=1)
    lease = desk.lease("e")
    desk.send("e", lease, desk.delta_of("e"), mask=desk.deal("e", to="")[0])
    versions(desk, 2)
    assert desk.refusals() == {refusals.STALE_SUPPORT: 1}


# --- restarts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("support", ["dense", "randk-0.1", "plan-0.1"])
def test_restarts_change_nothing(make_secure: MakeSecure, support: str) -> None:
    """Named coordinates go by how params have moved since the last support, or since version 0."""
    finals = set()
    for restarts in (False, True):
        desk = wide(make_secure, support, every=2)
        for delta in np.random.default_rng(3).normal(0, 0.1, (5, SIZE)).astype(np.float32):
            desk.train(*FOUR, delta=delta)
            desk.answer(*NAMES)
            if restarts:
                desk.come_back()
                assert desk.version > 0
        finals.add(desk.desk.params.tobytes())
    assert len(finals) == 1


def test_a_support_is_said_again_to_a_broker_that_forgot(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1", every=1)
    versions(desk, 1)
    topic = desk.coordinator.topics.support()
    named = desk.supports[desk.support]
    desk.desk.retained.clear()
    desk.supports.clear()
    desk.desk.perform(desk.coordinator.connected(1 << 16, desk.desk.now))
    assert topic in desk.desk.retained
    assert desk.support == 1
    assert desk.supports[1] == named


def test_dense_updates_have_no_support(make_secure: MakeSecure) -> None:
    desk = make_secure()
    assert desk.coordinator.topics.support() not in desk.desk.retained
    desk.stock_up()
    assert isinstance(desk.lease("a"), Lease)


def test_what_is_kept_of_old_supports_stays_small(make_secure: MakeSecure) -> None:
    desk = wide(make_secure, "plan-0.1", every=1)
    versions(desk, 6)
    documents = desk.desk.store.snapshot().documents
    assert sorted(key for key in documents if key.startswith("support/")) == [
        "support/5",
        "support/6",
    ]


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7])
def test_no_number_is_ever_given_to_two_supports(every: int) -> None:
    """Whatever ``support_every`` was before: a number is the version that a support begins with."""
    spec = parse_codec("plan-0.1/seedmask")
    publication = Publication(TOPICS, 0)
    named: dict[int, bytes] = {}
    documents: dict[str, bytes] = {}
    version, draw = 0, np.random.default_rng(every)
    for before in (5, every):  # the setting changes at version 17
        supports = supports_of(spec, version=version, every=before, documents=documents)
        for _ in range(17):
            version += 1
            params = draw.normal(size=SIZE).astype(np.float32)
            for action in supports.stepped(version, params, publication, frozenset()):
                if not isinstance(action, Store):
                    continue
                assert isinstance(action.record, DocumentRecord)
                key, data = action.record.key, action.record.data
                documents[key] = data
                if key.startswith("support/") and data:
                    number = int(key.removeprefix("support/"))
                    assert named.setdefault(number, data) == data
        documents = {key: data for key, data in documents.items() if data}
    assert len(named) > 4


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["plan-0.1/seedmask", "plan-0.9/seedmask"])
def test_names_that_do_not_fit_a_message_are_refused(codec: str) -> None:
    with pytest.raises(ConfigError, match="cannot be named in one message"):
        check_support(parse_codec(codec), 10_000_000)


@pytest.mark.parametrize("codec", ["dense/seedmask", "randk-0.1/seedmask", "plan-0.001/seedmask"])
def test_names_that_fit_are_not(codec: str) -> None:
    check_support(parse_codec(codec), 10_000_000)


def test_a_support_too_small_to_name_one_names_none() -> None:
    supports = supports_of(parse_codec("plan-0.001/seedmask"))
    assert supports.num_kept == 1
    actions = supports.stepped(1, np.ones(SIZE, np.float32), Publication(TOPICS, 0), frozenset())
    assert actions
    where = supports.coordinates(1)
    assert where is not None
    assert where.size == 1
