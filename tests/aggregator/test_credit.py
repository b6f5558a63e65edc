"""Back-pressure: what is on its way to the aggregator never exceeds the credit."""

from hypothesis import given
from hypothesis import strategies as st

from aggregator.actions import Action
from aggregator.coordinator import Coordinator
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.credit import Credit, most_bytes
from aggregator.scheduling.selection import RULES, SelectionConfig
from aggregator.task_config import StrategyConfig
from protocol.actions import Publish
from protocol.chunks import checksum
from protocol.codec import decode, encode, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Lease, Update, UpdateChunk
from protocol.topics import Kind
from simulator import MemoryStore
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import CODECS, install_id, task_config

#: An update of the 6 params is 24 bytes and what is around them.
BUDGET = 216
DEVICES = "abcdefgh"


class Out:
    """A coordinator, and what its leases allow devices to send at every moment."""

    def __init__(self, selection: SelectionConfig) -> None:
        config = task_config(
            buffered=Buffered(goal=2, concurrency=100),
            selection=selection,
            strategy=StrategyConfig(name="fedavg"),
            lease_ttl_s=50,
        )
        self.coordinator = Coordinator(config, MemoryStore(3).snapshot(), bytes(32), 0.0)
        self.leases: dict[str, Lease] = {}
        self.now = 0.0
        self.num_leases = 0
        self._counter = 1 << 32
        self._hear(self.coordinator.start(0.0))

    def check_in(self, device: str) -> None:
        self._say(
            device, CheckIn(install_id(device), -1, 10, CODECS), self.coordinator.topics.out(device)
        )

    def upload(self, device: str) -> None:
        lease = self.leases.pop(device, None)
        if lease is None:
            return
        update = encode_update(Update(lease.version, lease.codec, 1, bytes(24)))
        chunk = UpdateChunk(lease.lease_id, checksum(update), 0, 1, update)
        self._say(device, chunk, self.coordinator.topics.update(0, device))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._hear(self.coordinator.timer(self.now))

    def _say(self, device: str, message: CheckIn | UpdateChunk, topic: str) -> None:
        self._counter += 1
        payload = encode(message, task="t", sender=device, counter=self._counter)
        self._hear(self.coordinator.message(topic, payload, self.now))

    def _hear(self, actions: list[Action]) -> None:
        for action in actions:
            if not isinstance(action, Publish):
                continue
            address = self.coordinator.topics.parse(action.topic)
            if address.kind is not Kind.IN:
                continue
            try:
                lease = decode(action.payload, (Lease,), task="t", sender=AGGREGATOR)
            except RemoteProtocolError:
                continue  # another message
            self.leases[address.device] = lease
            self.num_leases += 1


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("check in"), st.sampled_from(DEVICES)),
        st.tuples(st.just("upload"), st.sampled_from(DEVICES)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 20.0, 60.0])),
    ),
    max_size=60,
)


@given(EVENTS, st.sampled_from(RULES), st.integers(2, 5))
def test_whatever_arrives_no_more_bytes_are_out_than_the_credit(
    events: list[tuple[str, str | float]], rule: str, num_updates: int
) -> None:
    most = num_updates * BUDGET + 100
    out = Out(SelectionConfig(rule=rule, max_outstanding_bytes=most))
    for what, value in [*events, *(("check in", each) for each in DEVICES)]:
        if isinstance(value, float):
            out.wait(value)
        elif what == "check in":
            out.check_in(value)
        else:
            out.upload(value)
        running = list(out.coordinator.leases.running())
        assert sum(lease.budget_bytes for lease in running) <= most
        assert out.coordinator.leases.outstanding_bytes == sum(
            each.budget_bytes for each in running
        )
    assert out.num_leases > 0
    assert out.coordinator.leases.num_active >= 2, (
        "and the credit is used, as far as a version needs"
    )


def test_without_a_bound_everybody_gets_a_lease() -> None:
    out = Out(SelectionConfig())
    for device in DEVICES:
        out.check_in(device)
    assert out.coordinator.leases.num_active == len(DEVICES)
    assert out.leases["a"].budget_bytes == BUDGET


def test_credit_falls_by_half_when_leases_run_out_unnoticed_and_comes_back_with_updates() -> None:
    credit = Credit(1000, 100)
    credit.late(0.5)
    assert credit.bytes_now(0) == 1000
    credit.late(30.0)
    assert credit.bytes_now(0) == 500
    assert credit.bytes_now(450) == 100, "never less than a version needs"
    for _ in range(32):
        credit.took()
    assert credit.bytes_now(0) == 1000
    for _ in range(50):
        credit.late(30.0)
    assert credit.bytes_now(0) == 100


def test_the_default_holds_two_versions_of_a_large_model() -> None:
    assert most_bytes(0, 10) == 256 * 1024 * 1024
    assert most_bytes(0, 1 << 30) == 2 << 30
    assert most_bytes(4096, 10) == 4096


def test_an_aggregator_that_was_stopped_gives_fewer_leases_for_a_while(make_desk: MakeDesk) -> None:
    selection = SelectionConfig(max_outstanding_bytes=8 * BUDGET)
    desk = make_desk(
        selection=selection,
        buffered=Buffered(goal=2, concurrency=100),
        lease_ttl_s=30,
        strategy=StrategyConfig(name="fedavg"),
    )
    for device in DEVICES:
        desk.lease(device)
    desk.now += 300.0  # nobody looked at the timers
    desk.perform(desk.coordinator.timer(desk.now))
    for device in DEVICES:
        desk.check_in(f"{device}2")
    assert desk.coordinator.leases.num_active == 4
    why = desk.coordinator.granting.report(0, desk.now)["held_back_by"]
    assert why == f"credit: updates of {4 * BUDGET} of {4 * BUDGET} bytes are out"
