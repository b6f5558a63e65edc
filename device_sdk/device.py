"""The device's shell: transport, session, trainer and storage in one selector loop.

Reads the clock and the entropy source and hands both to the session. Performs its actions in order:
what it stores is durable before what follows leaves.
"""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, Self

import nacl.utils
import numpy as np
import numpy.typing as npt

from device_sdk import SDK_VERSION
from device_sdk.abilities import CODECS, MASKED_CODECS
from device_sdk.actions import Action, Delete, Keep, Store, Train
from device_sdk.belongings import keeps_budget, make_trainer, own_install_id, own_keys
from device_sdk.config import DeviceConfig, load_config
from device_sdk.health import hardware_class, health
from device_sdk.held import MODEL
from device_sdk.pacing import Pace
from device_sdk.power import Board
from device_sdk.predictions import Predictions
from device_sdk.readiness import Readiness
from device_sdk.session import Session
from device_sdk.storage import Storage, StorageError
from device_sdk.telemetry import telemetry
from device_sdk.trainer import Trainer
from device_sdk.training import TrainingThread
from device_sdk.twins import Twins
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import MIN_PACKET_BYTES
from protocol.messages import WIRE_VERSION
from protocol.topics import Topics
from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    PublishRefused,
    QueueFullError,
    Refused,
    SubscribeRefused,
    Will,
)
from transport.loop import Loop
from transport.paho import PahoTransport

_log = logging.getLogger(__name__)

#: The loop looks at its timers at least this often.
TICK_S: Final = 1.0
#: While it trains, the device looks at its conditions this often.
LOOK_S: Final = 2.0
#: A device whose connection another one keeps taking leaves it to that one for this long.
STEP_ASIDE_S: Final = 3600.0
#: After a write that failed, the device waits this long before it begins anew.
STORAGE_RETRY_S: Final = 10.0
WINDOW: Final = 20
QUEUE: Final = 2_000


class Device:
    """One device in one task. `run` returns when `stop` was called (from any thread).

    ``board`` is what it reads its conditions from, by default the machine it runs on.
    """

    def __init__(
        self, config: DeviceConfig, trainer: Trainer, *, board: Board | None = None
    ) -> None:
        """Open the device's storage. Raises ConfigError or StorageError."""
        self.config = config
        self.topics = Topics(config.prefix, config.task)
        self._trainer = trainer
        self._board = board or Board()
        self._readiness = Readiness(trainer, self._board, config.conditions, config.min_samples)
        self._held = ""
        self._look_at = 0.0
        self._storage = Storage(Path(config.state_dir))
        self._install_id = own_install_id(self._storage)
        self._keys = own_keys(config)
        self._erased_before = 0
        self._boot = nacl.utils.random(16).hex()
        self._twins = Twins(self._boot)
        self._loop = Loop()
        self._transport = self._new_transport()
        self._training = self._start_training()
        self._session = self._new_session()
        self._predictions = Predictions(trainer, self._storage, config.inference.file)
        self._stopping = False
        self._come_at = 0.0
        self._telemetry_at = 0.0

    @classmethod
    def from_config(cls, path: Path | str, trainer: Trainer | None = None) -> Self:
        """Read a configuration file; without a trainer, make the one it names.

        Raises ConfigError that names the key, StorageError.
        """
        config = load_config(Path(path))
        return cls(config, make_trainer(config) if trainer is None else trainer)

    def run(self) -> None:
        """Take part until `stop`; then leave with the state ``sleeping``."""
        _log.info("device %s joins task %s", self.config.device, self.config.task)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._leave()

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the model's outputs for samples ``x``, (n, *input shape). From any thread.

        By the configured ``.tflite`` file if there is one that works, else by the engine, the
        plan's spec and the params of the newest lease: also where ``NumpyTrainer(model_spec=...)``
        or a module of one's own is what trains. Right after a start it is the model that was kept
        then. Raises NoModelError before the first, TrainingError for samples that do not fit.
        """
        return self._predictions.predict(x)

    def stop(self) -> None:
        """Make `run` return soon. From any thread, or a signal handler."""
        self._stopping = True
        self._loop.wake()

    def _trained(self) -> None:
        """Called in the training's thread, which may outlive the loop."""
        if not self._stopping:
            self._loop.wake()

    # --- one turn of the loop ----------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._come_at:
            self._come(now)
        due = min(self._session.timer_at, self._telemetry_at, self._come_at, now + TICK_S)
        arrived = self._loop.wait(max(0.0, due - now))
        for _, events in arrived:
            for event in events:
                self._handle(event)
        for result in self._training.results():
            now = time.monotonic()
            if result.trained is None:
                failed = self._session.failed(
                    result.lease_id,
                    now,
                    abandoned=result.abandoned,
                    why=result.failed,
                    is_plan_unfit=result.is_plan_unfit,
                )
                self._perform(failed)
            else:
                self._perform(self._session.trained(result.lease_id, result.trained, now))
        now = time.monotonic()
        if self._training.is_busy and now >= self._look_at:
            self._look(now)
        if now >= self._session.timer_at:
            self._perform(self._session.timer(now))
        if now >= self._telemetry_at:
            self._say_health(now)

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Message(topic) if topic == self.topics.info(self.config.device):
                self._twins.hear(event.payload, retained=event.retain)
                self._transport.acknowledge(event)
            case Message():
                self._hear(event, now)
            case Connected() if event.max_packet_bytes < MIN_PACKET_BYTES:
                _log.error("the broker takes %d bytes a packet: too few", event.max_packet_bytes)
            case Connected():
                _log.info("connected, MQTT %s", event.protocol)
                self._telemetry_at = now
                self._perform(self._session.connected(event.max_packet_bytes, now))
            case Disconnected():
                _log.warning("disconnected: %s", event.reason)
                self._perform(self._session.disconnected())
                if event.taken_over and self._twins.gives_way:
                    self._step_aside()
                elif event.taken_over:  # to hear who did it, though the session may be kept
                    self._transport.subscribe([self.topics.info(self.config.device)], retained=True)
            case Refused():
                _log.error("the broker refuses this device: %s; see [broker]", event.reason)
            case PublishRefused() | SubscribeRefused():
                _log.error("the broker refused: %s", event)

    def _hear(self, message: Message, now: float) -> None:
        before = self._session.turned_away
        if self._perform(self._session.message(message.topic, message.payload, now)):
            self._transport.acknowledge(message)
        if self._session.turned_away != before:
            _log.error("turned away: %s", self._session.turned_away)

    def _perform(self, actions: Sequence[Action]) -> bool:
        """Do what the session decided; return False if the medium did not take a write.

        Then memory is ahead of the medium, and nothing of it may be said: the session is dropped,
        the bus is left, and after a while the device comes back as the medium knows it.
        """
        try:
            for kind, alike in groupby(actions, type):
                self._act_on(kind, list(alike))
        except StorageError as error:
            _log.error("%s; trying again in %.0f s", error, STORAGE_RETRY_S)
            self._go(STORAGE_RETRY_S)
            return False
        if self._session.mask_epoch > self._erased_before:
            self._erase_old_keys(self._session.mask_epoch)
        return True

    def _act_on(self, kind: type[Action], actions: Sequence[Action]) -> None:
        """Do actions of one kind; what is stored or forgotten together costs one flush."""
        if kind is Store:
            self._store({act.key: act.data for act in actions if type(act) is Store})
        elif kind is Keep:
            self._keep({act.key: act.data for act in actions if type(act) is Keep})
        elif kind is Delete:
            self._storage.delete_all([act.key for act in actions if type(act) is Delete])
        else:
            for action in actions:
                self._act(action)

    def _store(self, items: Mapping[str, bytes]) -> None:
        """Make durable; the model that is kept gives way, since it can be fetched again."""
        try:
            self._storage.store_all(items)
        except StorageError:
            self._storage.delete(MODEL)
            self._storage.store_all(items)

    def _keep(self, items: Mapping[str, bytes]) -> None:
        try:
            self._store(items)
        except StorageError as error:
            self._session.counts["models_not_kept"] += 1
            _log.error("%s; after a restart the model is fetched whole", error)

    def _act(self, action: Action) -> None:
        match action:
            case Publish():
                self._publish(action)
            case Train():
                self._predictions.newest = action.assignment
                self._held = ""
                self._look(time.monotonic())
                self._training.train(action)
            case Subscribe(filters, retained):
                self._transport.subscribe(filters, retained=retained)
            case Unsubscribe(filters):
                self._transport.unsubscribe(filters)

    def _publish(self, publish: Publish) -> None:
        try:
            self._transport.publish(
                publish.topic, publish.payload, qos=publish.qos, retain=publish.retain
            )
        except (PacketTooLargeError, QueueFullError) as error:
            _log.error("not sent: %s", error)

    def _step_aside(self) -> None:
        """A copy of this medium is connected: two that fight over one id would never end."""
        _log.error(
            "another device is connected as %s: give one of them a medium of its own and a"
            " new id; trying again in %.0f s",
            self.config.device,
            STEP_ASIDE_S,
        )
        self._go(STEP_ASIDE_S)

    def _erase_old_keys(self, epoch: int) -> None:
        """The new roster is stored: what was sealed under the ones before shall stay sealed."""
        self._erased_before = epoch
        if self._keys is None:
            return
        from device_sdk.identity import erase_before  # noqa: PLC0415 - only secure tasks wait for it

        try:
            self._keys = erase_before(Path(self.config.identity.keys), self._keys, epoch)
        except OSError as error:
            _log.warning(
                "%s still has the keys of old epochs: %s", self.config.identity.keys, error
            )

    # --- conditions --------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Let training wait, between two steps, while the conditions do not hold."""
        self._look_at = now + LOOK_S
        before, self._held = self._held, self._readiness.declines()
        self._training.hold(self._held)
        if self._held and self._held != before:
            self._session.counts[f"paused_{self._held}"] += 1
            _log.info("training pauses: %s", self._held)

    # --- making and remaking -----------------------------------------------------------------

    def _start_training(self) -> TrainingThread:
        limits = self.config.training
        budget_bytes = limits.memory_budget_bytes
        if budget_bytes is not None and not keeps_budget(self._trainer):
            name = type(self._trainer).__name__
            _log.warning("memory_budget: only the SDK's own engine keeps it, %s may not", name)
        pace = Pace(limits.cpu_limit)
        return TrainingThread(self._trainer, self._trained, pace, memory_budget_bytes=budget_bytes)

    def _come(self, now: float) -> None:
        """Begin, or begin again after `_go`."""
        self._come_at = float("inf")
        if self._perform(self._session.start(now)):
            self._loop.add(self._transport)
            self._transport.connect()

    def _go(self, seconds: float) -> None:
        """Leave the bus without a word for so long; who comes back knows what the medium does.

        No session starts twice, nor goes on over a transport that it has told of no subscription.
        """
        self._loop.remove(self._transport)
        self._transport.close(0.0)
        self._transport = self._new_transport()
        self._session = self._new_session()
        self._come_at = time.monotonic() + seconds

    def _new_transport(self) -> PahoTransport:
        transport = PahoTransport(self._settings(), random=random.SystemRandom().random)
        transport.subscribe([self.topics.info(self.config.device)], retained=True)
        return transport

    def _new_session(self) -> Session:
        birth = {
            "boot": self._boot,
            "sdk": SDK_VERSION,
            "wire": WIRE_VERSION,
            "hardware": hardware_class(),
            "codecs": list(CODECS if self._keys is None else MASKED_CODECS),
            "installation": self._install_id.hex()[:8],
            "key": "" if self._keys is None else self._keys.fingerprint,
        }
        return Session(
            self.topics,
            self.config.device,
            self._install_id,
            stored=self._storage.load(),
            seed=nacl.utils.random(32),
            birth=birth,
            num_samples=self._readiness.num_samples,
            declines=self._readiness.declines,
            min_samples=self.config.min_samples,
            retry_first_s=self.config.retry.first_s,
            retry_cap_s=self.config.retry.cap_s,
            keys=self._keys,
            seal=self.config.identity.seal,
            stock=self.config.secure.stock,
            max_share_bytes=self.config.secure.max_share_bytes,
        )

    def _settings(self) -> BrokerSettings:
        device = self.config.device
        return self.config.broker.settings(
            f"{self.config.task}-{device}-{self._install_id.hex()[:8]}",
            username=device,
            will=Will(self.topics.state(device), b"offline"),
            window=WINDOW,
            queue=QUEUE,
        )

    # --- telemetry and farewell --------------------------------------------------------------

    def _say_health(self, now: float) -> None:
        interval_s = self.config.telemetry.interval_s
        self._telemetry_at = now + interval_s if interval_s else float("inf")
        if not interval_s or not self._transport.connected:
            return
        payload = telemetry(
            health(self._board.read()),
            self._session,
            self._transport.counters,
            declined=self._readiness.declined,
            num_corrupt=self._storage.num_corrupt,
        )
        self._publish(Publish(self.topics.telemetry(self.config.device), payload, qos=0))

    def _leave(self) -> None:
        self._perform(self._session.asleep())
        self._loop.remove(self._transport)
        self._transport.close()
        self._training.stop(timeout_s=0.2)
        self._loop.close()
