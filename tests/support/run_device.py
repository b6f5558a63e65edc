"""A device process that keeps a record of its updates, and misbehaves when told to.

    python -m tests.support.run_device CONFIG RECORD [--option VALUE ...]

It is the product's `Device` with a trainer that only nudges the params. What it trained and stored
and which receipts and refusals it gets is appended to RECORD; `DeviceRecord.read` reads that.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgpack
import numpy as np
import numpy.typing as npt

from device_sdk import Device, Trainer
from device_sdk.actions import Action, Delete, Store, Train
from device_sdk.answers import ANSWER
from device_sdk.config import DeviceConfig, load_config
from device_sdk.pending import PENDING, unpack_pending
from device_sdk.power import Board
from device_sdk.session import Session
from device_sdk.trainer import Assignment, Trained
from tests.support import wrong_clock

STEPS: Final = 20
BEGUN, TRAINED, STORED = "begun", "trained", "stored"
RECEIPT, REFUSAL = "receipt", "refusal"
Vector = npt.NDArray[np.float32]


@dataclass(slots=True)
class DeviceRecord:
    """What one device has trained and stored, and what it was told about it.

    ``begun`` has the leases that it began to train for.
    ``trained``: lease id -> number of samples and delta, in the open; of a lease that was trained
    for twice, the last time. ``stored``: lease id -> update.
    """

    begun: set[bytes] = field(default_factory=set)
    trained: dict[bytes, tuple[int, Vector]] = field(default_factory=dict)
    stored: dict[bytes, bytes] = field(default_factory=dict)
    receipts: list[bytes] = field(default_factory=list)
    refusals: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record, without the line that a kill may have cut off."""
        found = cls()
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        if path.exists():
            unpacker.feed(path.read_bytes())
        for what, lease_id, data in unpacker:
            if what == BEGUN:
                found.begun.add(lease_id)
            elif what == TRAINED:
                num_samples = int.from_bytes(data[:4], "little")
                found.trained[lease_id] = (num_samples, np.frombuffer(data[4:], "<f4"))
            elif what == STORED:
                found.stored[lease_id] = data
            else:
                (found.receipts if what == RECEIPT else found.refusals).append(lease_id)
        return found


class Nudge(Trainer):
    """Computes for ``train_s`` seconds and moves every param a little, as the seed decides.

    ``busy``: in one long step of pure Python, which leaves the network's thread what it must take;
    else asleep, in `STEPS` steps.
    ``on_trained`` is told seed, number of samples and delta, in the training's thread.
    """

    def __init__(self, train_s: float, num_samples: int, *, busy: bool) -> None:
        self._train_s = train_s
        self._num_samples = num_samples
        self._busy = busy
        self.on_trained: Callable[[bytes, int, Vector], None] = lambda *_: None

    def num_samples(self) -> int:
        return self._num_samples

    def train(self, assignment: Assignment) -> Trained:
        until = time.monotonic() + self._train_s
        while self._busy and time.monotonic() < until:
            pass
        for _ in range(0 if self._busy else STEPS):
            assignment.pause()
            time.sleep(self._train_s / STEPS)
        drawn = np.random.default_rng(list(assignment.seed)).standard_normal(assignment.params.size)
        params = assignment.params + np.float32(0.001) * drawn.astype(np.float32)
        self.on_trained(assignment.seed, self._num_samples, params - assignment.params)
        return Trained(params.astype(np.float32), num_samples=self._num_samples, metrics={})


class WatchedDevice(Device):
    """Records; dies right after it has stored something, before sending it.

    The ``die_after``-th update, or the ``die_answering``-th answer to a recovery request.
    """

    def __init__(
        self,
        config: DeviceConfig,
        trainer: Nudge,
        record: Path,
        *,
        die_after: int,
        die_answering: int,
        board: Board | None,
    ) -> None:
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._die_after = die_after
        self._die_answering = die_answering
        self._leases: dict[bytes, bytes] = {}
        trainer.on_trained = self._note_trained
        super().__init__(config, trainer, board=board)

    def _new_session(self) -> Session:
        session = super()._new_session()
        self._num_receipts, self._lease_id = 0, b""
        if session.pending is not None:  # killed before it could be recorded, perhaps
            self._lease_id = session.pending.lease_id
            self._note(STORED, session.pending.update)
        return session

    def _act_on(self, kind: type[Action], actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Train):
                self._leases[action.assignment.seed] = action.lease_id
                os.write(self._record, msgpack.packb([BEGUN, action.lease_id, b""]))
        super()._act_on(kind, actions)
        for action in actions:
            self._note_done(action)

    def _note_done(self, action: Action) -> None:
        match action:
            case Store(key, data) if key == PENDING:
                pending = unpack_pending(data)
                self._lease_id = pending.lease_id
                self._note(STORED, pending.update)
                self._die_after -= 1
                if self._die_after == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            case Store(key) if key.startswith(ANSWER):
                self._die_answering -= 1
                if self._die_answering == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            case Delete(key) if key == PENDING and self._lease_id:
                receipts = self._session.counts["receipts"]
                self._note(RECEIPT if receipts > self._num_receipts else REFUSAL)
                self._num_receipts, self._lease_id = receipts, b""

    def _note_trained(self, seed: bytes, num_samples: int, delta: Vector) -> None:
        data = num_samples.to_bytes(4, "little") + delta.tobytes()
        os.write(self._record, msgpack.packb([TRAINED, self._leases[seed], data]))

    def _note(self, what: str, update: bytes = b"") -> None:
        os.write(self._record, msgpack.packb([what, self._lease_id, update]))


def weaken(rule: str) -> None:
    """Take a rule away, by the name of a function in `tests.privacy.weakened`."""
    import pytest  # noqa: PLC0415 - and pytest: only few devices are weak

    from tests.privacy import weakened  # noqa: PLC0415

    getattr(weakened, rule)(pytest.MonkeyPatch())


def main(argv: Sequence[str]) -> None:
    """Take part until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("record", type=Path)
    parser.add_argument("--train-s", type=float, default=0.05)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--die-after-storing", type=int, default=0)
    parser.add_argument("--die-answering", type=int, default=0)
    parser.add_argument("--clock-wrong-by-s", type=float, default=0.0)
    parser.add_argument("--board", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    options = parser.parse_args(argv)
    for rule in options.without:
        weaken(rule)
    if options.clock_wrong_by_s:
        wrong_clock.install(options.clock_wrong_by_s)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    wrong_clock.log_the_year()
    device = WatchedDevice(
        load_config(options.config),
        Nudge(options.train_s, options.num_samples, busy=options.busy),
        options.record,
        die_after=options.die_after_storing,
        die_answering=options.die_answering,
        board=options.board and Board(options.board),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: device.stop())
    device.run()


if __name__ == "__main__":
    main(sys.argv[1:])
