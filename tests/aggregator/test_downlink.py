"""Every version that is needed can be reached from what is published, and cheaply."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.bandwidth import BandwidthConfig
from aggregator.downlink import REACH, Downlink, Route
from aggregator.records import Published, VersionRecord
from aggregator.scheduling.buffered import Buffered
from protocol import refusals
from protocol.codec import unpack
from protocol.errors import ConfigError, LocalProtocolError
from protocol.messages import MAX_DIFFERENCES, CheckIn, Difference, Lease, Refusal
from protocol.topics import SHELVES, Kind
from protocol.vectors.hidden import advanced, model_from_bytes, model_hash, rounded
from protocol.vectors.layout import Layout, Subset, Tensor
from tests.support.desk import CODECS, Desk, install_id, task_config

Vector = npt.NDArray[np.float32]

LAYOUT = Layout((Tensor("w", (60, 10)), Tensor("b", (10,))))
SUBSET = Subset(LAYOUT, frozenset({"w", "b"}))
KEEP = 3
PLAIN = BandwidthConfig(differences="none", model="float32")
SPARSE = BandwidthConfig(differences="topk-0.02/int8", model="float32", keyframe_every=10)
CONFIGS = (
    PLAIN,
    SPARSE,
    BandwidthConfig(differences="topk-0.02/int8", model="int8", keyframe_every=4),
    BandwidthConfig(differences="dense/int8", model="float16", keyframe_every=6),
    BandwidthConfig(differences="randk-0.05/int8", model="float32", keyframe_every=1),
    BandwidthConfig(differences="none", model="int8"),
)


@dataclass
class Line:
    """A downlink, and what a store would keep of it. ``held`` is what it said of each version."""

    config: BandwidthConfig
    published: dict[int, Published] = field(default_factory=dict)
    params: dict[int, bytes] = field(default_factory=dict)
    held: dict[int, Vector] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    version: int = -1

    def __post_init__(self) -> None:
        self.draws = np.random.default_rng(5)
        self.x = self.draws.standard_normal(LAYOUT.size).astype(np.float32)
        self.downlink = Downlink(self.config, SUBSET, "t")
        self.step()

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.version += 1
            self.x += 0.1 * self.draws.standard_normal(LAYOUT.size).astype(np.float32)
            data = self.x.tobytes()
            record = VersionRecord(self.version, data, hashlib.sha256(data).digest())
            self.record = self.downlink.step(record, self.x.copy(), self.needed)
            self.published[self.version] = self.record.published
            self.params[self.version] = data
            since, kept = self.record.published_since, self.needed
            self.published = {at: told for at, told in self.published.items() if at >= since}
            self.params = {at: data for at, data in self.params.items() if at in kept}
            self.held[self.version] = self.downlink.hidden.copy()

    @property
    def needed(self) -> set[int]:
        return self.running | set(range(self.version - KEEP + 1, self.version + 1))

    def restart(self, config: BandwidthConfig) -> None:
        self.downlink = Downlink(config, SUBSET, "t")
        self.downlink.restore(self.record, self.published, self.params, self.needed)

    def fetched(self, version: int, held: int = -1) -> tuple[Vector, int]:
        """Go the way that a lease names; return the params, and how many differences it took."""
        return self.go(self.downlink.route(version, held), version)

    def go(self, route: Route, version: int) -> tuple[Vector, int]:
        retained = self.downlink.retained
        start, params = route.base, self.held.get(route.base)
        if route.base < 0:
            start = version if route.keyframe < 0 else route.keyframe
            whole = retained[Kind.MODEL, start]
            assert len(whole) == route.model_bytes
            params = model_from_bytes(whole, route.model, LAYOUT)
        assert params is not None
        for number in range(start + 1, version + 1):
            told = unpack(retained[Kind.DIFFERENCE, number], Difference)
            params = advanced(params, told, SUBSET, task="t", version=number)
            params = rounded(params, told.model, LAYOUT)
        assert model_hash(params) == route.model_hash
        return params, version - start


@given(
    st.lists(
        st.sampled_from(["step", "step", "step", "lease", "free", "restart", "again"]), max_size=40
    ),
    st.lists(st.sampled_from(CONFIGS), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_whoever_needs_a_version_gets_to_it(
    events: list[str], configs: list[BandwidthConfig]
) -> None:
    """Whatever is leased, and however often the aggregator restarts, with other settings, too."""
    line = Line(configs[0])
    for number, event in enumerate(events):
        match event:
            case "step":
                line.step()
            case "lease":
                line.running.add(line.version)
            case "free":
                line.running.discard(min(line.running, default=0))
            case "restart":
                line.restart(configs[number % len(configs)])
            case "again":
                line.restart(line.config)
        for version in line.needed - {-1, -2}:
            for held in (-1, *range(max(0, version - 6), version)):
                params, _ = line.fetched(version, held)
                np.testing.assert_array_equal(params, line.held[version])
        assert len(line.downlink.retained) <= 3 * MAX_DIFFERENCES


def test_what_it_costs_to_come_back_is_the_differences_missed() -> None:
    line = Line(SPARSE)
    line.step(25)
    for missed in range(1, 8):
        assert line.fetched(25, 25 - missed)[1] == missed
    differences = [line.published[number].difference for number in (23, 24, 25)]
    assert line.downlink.num_bytes(25, 22) == sum(map(len, differences)) + 3 * 128
    assert line.downlink.num_bytes(25, 25) == 0


def test_a_new_device_begins_at_the_newest_version_that_is_whole() -> None:
    line = Line(SPARSE)
    line.step(25)
    route = line.downlink.route(25)
    assert (route.keyframe, route.model, route.base) == (20, "float32", -1)
    assert line.fetched(25)[1] == 5
    assert line.downlink.route(20).keyframe == -1


def test_who_missed_more_than_a_whole_model_costs_begins_anew() -> None:
    line = Line(replace(SPARSE, differences="dense/int8", model="int8", keyframe_every=3))
    line.step(9)
    assert line.fetched(9, 8)[1] == 1
    assert line.downlink.route(9, 2).base == -1


def test_a_keyframe_comes_early_where_differences_cost_as_much() -> None:
    line = Line(replace(SPARSE, differences="dense/float16", model="float16", keyframe_every=50))
    line.step(8)
    assert [number for number, told in line.published.items() if told.full][-1] >= 6


def test_a_whole_model_is_no_more_than_its_numbers_can_say() -> None:
    line = Line(CONFIGS[2])
    line.step(8)
    whole = line.published[8]
    assert (whole.model, len(whole.full)) == ("int8", LAYOUT.size + 2 * 4)
    np.testing.assert_array_equal(line.fetched(8)[0], line.fetched(8, 7)[0])


def test_only_what_is_needed_stays_published() -> None:
    line = Line(SPARSE)
    line.step(3)
    line.running.add(3)
    line.step(60)
    kinds = {(kind, version) for kind, version in line.downlink.retained if version <= 10}
    assert kinds == {(Kind.MODEL, 0), *((Kind.DIFFERENCE, number) for number in (1, 2, 3))}
    np.testing.assert_array_equal(line.fetched(3)[0], line.held[3])
    line.running.clear()
    line.step()
    assert min(version for _, version in line.downlink.retained) > 10
    assert min(line.published) > 10


def test_the_way_that_a_lease_names_stays_while_its_version_is_needed() -> None:
    """From before the keyframe, too, and however quickly versions are made meanwhile."""
    line = Line(SPARSE)
    line.step(21)
    route = line.downlink.route(21, 17)
    assert (route.keyframe, route.base) == (20, 17)
    line.downlink.lend(21, route.base)
    line.running.add(21)
    line.step(60)
    params, _ = line.go(route, 21)
    np.testing.assert_array_equal(params, line.held[21])
    line.running.clear()
    line.step()
    assert min(version for _, version in line.downlink.retained) > 21


@pytest.mark.parametrize("config", CONFIGS)
def test_no_two_versions_are_on_one_shelf_whatever_leases_name(config: BandwidthConfig) -> None:
    line = Line(config)
    for number in range(SHELVES + REACH):
        if number % 7 == 0:
            line.running.add(line.version)
        line.step()
        shelves = {(kind, version % SHELVES) for kind, version in line.downlink.retained}
        assert len(shelves) == len(line.downlink.retained)
        if number % 50 == 0:
            for version in line.running:
                in_reach = version > line.version - REACH
                assert line.downlink.is_published(version) == in_reach
                if in_reach:
                    np.testing.assert_array_equal(line.fetched(version)[0], line.held[version])
    assert min(line.running) < line.version - SHELVES


def test_a_lease_of_a_version_that_is_out_of_reach_is_replaced(tmp_path: Path) -> None:
    settings = task_config(buffered=Buffered(goal=1), lease_ttl_s=86_400, max_staleness=1_000)
    desk = Desk(tmp_path, settings)
    slow = desk.lease("slow")
    for _ in range(REACH):
        assert desk.lease("slow") == slow
        desk.send("a", desk.lease("a"), [1.0, 0, 0, 0, 0, 0])
    assert desk.lease("slow").version == desk.coordinator.version == REACH
    desk.close()


def test_a_lease_that_names_a_way_keeps_it(tmp_path: Path) -> None:
    model = {"input": [60], "layers": [{"type": "dense", "units": 10}]}
    model |= {"loss": "softmax_cross_entropy"}
    desk = Desk(tmp_path, task_config(model=model, bandwidth=SPARSE, buffered=Buffered(goal=1)))
    delta = np.ones(LAYOUT.size)

    def step(times: int) -> None:
        for _ in range(times):
            desk.send("b", desk.lease("b"), delta.tolist())

    step(11)
    topics = desk.coordinator.topics
    desk.hear(topics.out("a"), desk.sealed("a", CheckIn(install_id("a"), 7, 10, CODECS)))
    lease = desk.last("a")
    assert isinstance(lease, Lease)
    assert (lease.version, lease.keyframe, lease.base) == (11, 10, 7)
    step(60)
    assert all(desk.retained.get(topics.difference(at, 0)) for at in (8, 9, 10, 11))
    desk.close()


def test_who_cannot_get_there_gets_the_version_whole_till_the_next_restart() -> None:
    line = Line(SPARSE)
    line.step(25)
    line.running.add(25)
    line.step()
    before = line.downlink.retained
    line.downlink.make_whole(25)
    assert line.downlink.retained.keys() - before.keys() == {(Kind.MODEL, 25)}
    np.testing.assert_array_equal(line.go(line.downlink.whole_route(25), 25)[0], line.held[25])
    assert line.downlink.route(26).keyframe == 20  # a restart would not find the other
    line.running.clear()
    line.step(3)
    assert (Kind.MODEL, 25) not in line.downlink.retained
    with pytest.raises(LocalProtocolError):
        line.downlink.make_whole(3)


def test_a_keyframe_is_whole_as_it_is() -> None:
    line = Line(CONFIGS[2])
    line.step(8)
    line.downlink.make_whole(8)
    assert line.downlink.whole_route(8).model == "int8"
    assert line.go(line.downlink.whole_route(8), 8)[1] == 0


def test_a_store_that_holds_something_else_is_refused() -> None:
    line = Line(SPARSE)
    line.step(5)
    line.record = replace(line.record, model_hash=bytes(32))
    with pytest.raises(LocalProtocolError, match="version 5"):
        line.restart(SPARSE)


def test_without_differences_a_version_is_its_params() -> None:
    line = Line(PLAIN)
    line.step(4)
    assert line.record.published == Published("float32")
    assert line.record.model_hash == hashlib.sha256(line.record.params).digest()
    assert set(line.downlink.retained) == {(Kind.MODEL, number) for number in (2, 3, 4)}
    assert line.downlink.route(4, 3) == Route(
        line.record.model_hash, 4 * LAYOUT.size, -1, "float32", -1
    )


def test_who_must_understand_differences_is_known() -> None:
    needing = [bool(Downlink(config, SUBSET, "t").needs) for config in CONFIGS]
    assert needing == [False, True, True, True, False, True]


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"differences": "topk/int8"}, "fraction"),
        ({"differences": "dense/seedmask"}, "public"),
        ({"model": "int4"}, "int8"),
        ({"keyframe_every": 0}, "keyframe_every"),
        ({"keyframe_every": 65}, "keyframe_every"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BandwidthConfig(**settings_)  # type: ignore[arg-type]  # what a file may hold


def test_what_is_left_out_does_not_add_up() -> None:
    """However long it goes on, what devices hold stays as near as after a few versions."""
    line = Line(replace(SPARSE, differences="topk-0.2/int8"))
    distances = []
    for _ in range(120):
        line.step()
        distances.append(float(np.linalg.norm(line.x - line.downlink.hidden)))
    assert np.mean(distances[-20:]) < 1.3 * np.mean(distances[20:40])


@given(st.lists(st.floats(2.0**-20, 100.0, width=32), min_size=6, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_running_variance_stays_above_zero(variances: list[float], seed: int) -> None:
    """Levels may go twice as far as they should, which is below zero: a model that predicts NaN."""
    layout = Layout((Tensor("0.dense.weight", (60, 10)), Tensor("1.batch_norm.variance", (6,))))
    subset = Subset(layout, frozenset(tensor.name for tensor in layout.tensors))
    flags = np.arange(layout.size) >= 600
    config = replace(SPARSE, differences="topk-0.05/int4")
    downlink = Downlink(config, subset, "t", flags)
    draws = np.random.default_rng(seed)
    params = np.ones(layout.size, np.float32)
    for version in range(8):
        record = VersionRecord(version, params.tobytes(), bytes(32))
        downlink.step(record, params, ())
        held = downlink.hidden[flags]
        assert (held > 0).all(), held
        params = params + 0.1 * draws.standard_normal(layout.size).astype(np.float32)
        params[flags] = draws.permutation(np.array(variances, np.float32))
    for version in range(8, 70):
        record = VersionRecord(version, params.tobytes(), bytes(32))
        downlink.step(record, params, ())
    np.testing.assert_allclose(downlink.hidden[flags], params[flags], atol=0.1)


def test_a_device_whose_sdk_knows_no_differences_is_told_what_to_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path, task_config(bandwidth=SPARSE))
    words = tuple(word for word in CODECS if word != "differences")
    message = CheckIn(install_id("a"), -1, 10, words)
    desk.hear(desk.coordinator.topics.out("a"), desk.sealed("a", message))
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.WRONG_CODEC
    assert "needs differences: update the device's SDK" in refusal.detail
    assert desk.lease("b").version == 0
    desk.close()


def test_a_model_that_is_published_again_is_so_now_and_then_only(tmp_path: Path) -> None:
    """Were a broker to lose something, a thousand devices would say so at once."""
    desk = Desk(tmp_path, task_config(bandwidth=SPARSE))
    desk.lease("a")
    desk.retained.clear()
    message = CheckIn(install_id("a"), -1, 10, CODECS, unreachable=1)
    topics = desk.coordinator.topics
    for seconds, is_there in ((0, True), (3, False), (10, True)):
        desk.now += seconds
        desk.retained.clear()
        desk.hear(topics.out("a"), desk.sealed("a", message))
        assert (topics.model(0, 0) in desk.retained) == is_there
        assert isinstance(desk.last("a"), Lease)
    assert desk.coordinator.counts["models_unreachable"] == 3
    desk.close()


def test_who_waits_need_not_say_again_that_nothing_led_to_a_model(tmp_path: Path) -> None:
    desk = Desk(tmp_path, task_config(bandwidth=SPARSE, buffered=Buffered(concurrency=1)))
    desk.lease("a")
    out = desk.coordinator.topics.out("b")
    for unreachable in (1, 0):
        message = CheckIn(install_id("b"), -1, 10, CODECS, unreachable=unreachable)
        desk.hear(out, desk.sealed("b", message))
    desk.wait(601)  # the lease of the other one runs out
    assert isinstance(desk.last("b"), Lease)
    assert desk.coordinator.counts["models_unreachable"] == 1
    desk.close()
