"""A whole federation: one aggregator, its devices, and the broker between them."""

from collections.abc import Callable

from aggregator.gate import Trust
from aggregator.secure_config import Enrolment
from aggregator.task_config import TaskConfig
from device_sdk.engine.data import Block
from device_sdk.identity import Keys
from device_sdk.trainer import Assignment, Trainer
from protocol.stream import derive
from protocol.topics import Topics
from simulator.availability import Availability
from simulator.broker import Broker
from simulator.broker_limits import BrokerLimits
from simulator.device import SimulatedDevice
from simulator.links import LinkProfile
from simulator.queue import EventQueue
from simulator.remote import TrainRemote
from simulator.server import SimulatedServer
from transport import Counters


class World:
    """One task in virtual time; ``seed`` (32 bytes) decides all that is drawn.

    The aggregator starts with it. `run_for` and `run_until` let time pass; links, ``broker.route``
    and the devices' durations say how long things take. With an ``enrolment`` updates are masked,
    with ``trust`` devices need `keys` of `simulator.enrolment.certify_all`.
    The broker holds what its ``limits`` allow, everything without. ``train`` does the trainings of
    all devices, in place of their own trainers. ``root`` are the data of ``robust.root_file``.
    """

    def __init__(
        self,
        config: TaskConfig,
        seed: bytes,
        *,
        latency_s: float = 0.05,
        max_packet_bytes: int = 1 << 16,
        enrolment: Enrolment | None = None,
        trust: Trust | None = None,
        limits: BrokerLimits | None = None,
        train: TrainRemote | None = None,
        root: Block | None = None,
    ) -> None:
        self.queue = EventQueue()
        self.broker = Broker(
            self.queue, latency_s=latency_s, max_packet_bytes=max_packet_bytes, limits=limits
        )
        self._train = train
        self.topics = Topics(config.prefix, config.task)
        self.devices: dict[str, SimulatedDevice] = {}
        self._seed = seed
        self.server = SimulatedServer(
            self.queue,
            self.broker,
            config,
            derive(seed, "aggregator"),
            enrolment=enrolment,
            trust=trust,
            root=root,
        )
        self.server.start()

    @property
    def now(self) -> float:
        """The present, in virtual seconds since the beginning."""
        return self.queue.now

    def add(
        self,
        name: str,
        trainer: Trainer,
        duration: Callable[[Assignment], float],
        *,
        storage: dict[str, bytes] | None = None,
        retry_first_s: float = 10.0,
        retry_cap_s: float = 600.0,
        keys: Keys | None = None,
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
        counters: Counters | None = None,
        link: LinkProfile | None = None,
        availability: Availability | None = None,
        updates_per_wake: int = 0,
    ) -> SimulatedDevice:
        """Let a new device join; ``storage`` is its own or what it brings along.

        ``keys``: of a secure task. ``counters`` may be shared: they count for all who do. Without a
        ``link`` what it says is at the broker at once; without an ``availability`` it is always
        there. See `SimulatedDevice`.
        """
        device = SimulatedDevice(
            name,
            trainer,
            duration,
            queue=self.queue,
            broker=self.broker,
            topics=self.topics,
            seed=derive(self._seed, "device", name),
            storage={} if storage is None else storage,
            retry_first_s=retry_first_s,
            retry_cap_s=retry_cap_s,
            keys=keys,
            stock=stock,
            max_share_bytes=max_share_bytes,
            counters=counters,
            link=link,
            availability=availability,
            updates_per_wake=updates_per_wake,
            remote=self._train,
        )
        self.devices[name] = device
        device.follow_hours()
        return device

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.queue.run_until(self.now + seconds)

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until it holds; return False if it does not within ``limit_s``."""
        return self.queue.run_while(lambda: not condition(), self.now + limit_s)
