"""A whole federation of real processes on a real mosquitto, to be killed piece by piece."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aggregator.config import AggregatorConfig, load_config
from broker_config.files import write_broker
from broker_config.running import free_port
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, enrol_plain
from fedbus.key_files import read_key
from protocol.topics import Topics
from tests.support.forked import Forked, forker
from tests.support.mosquitto import Mosquitto
from tests.support.run_device import DeviceRecord

ROOT: Final = Path(__file__).parents[2]
TASK: Final = "faults"
TOPICS: Final = Topics("fedbus/1", TASK)
#: 36 params: an update is one small packet.
SMALL: Final = {
    "input": [8],
    "loss": "softmax_cross_entropy",
    "layers": [{"type": "dense", "units": 4}],
}
#: 16,848 params: as dense/float32 an update is two chunks, and so is the model.
TWO_CHUNKS: Final = {
    "input": [80],
    "loss": "softmax_cross_entropy",
    "layers": [{"type": "dense", "units": 208}],
}
#: Only what is broken takes so long, however busy the machine is.
PATIENCE_S: Final = 120.0
_POLL_S: Final = 0.02
_STOPS_WITHIN_S: Final = 30.0

Process = subprocess.Popen[bytes] | Forked
Settings = Mapping[str, object]


class Monitor:
    """A plain subscriber, ``mosquitto_sub -v``, of everything that people may read."""

    def __init__(
        self, path: Path, port: int, login: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        wanted = filters or TOPICS.monitor_filters()
        filters = [part for one in wanted for part in ("-t", one)]
        command = ["mosquitto_sub", "-v", "-p", str(port), "-k", "5", *login, *filters]
        self._path = path
        with path.open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        self._read = 0
        self._latest: dict[str, bytes] = {}
        self._seen: list[tuple[str, bytes]] = []

    def report(self, what: str) -> dict[str, Any]:
        """Return the newest report on ``mon/<what>``; empty before the first."""
        data = self.latest(TOPICS.monitor(what))
        return dict(json.loads(data)) if data else {}

    def latest(self, topic: str) -> bytes:
        """Return what came last on a topic."""
        self._take()
        return self._latest.get(topic, b"")

    @property
    def seen(self) -> list[tuple[str, bytes]]:
        """Every topic and payload that came, in order."""
        self._take()
        return self._seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _take(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                topic, _, payload = line.rstrip(b"\n").partition(b" ")
                name = topic.decode(errors="replace")  # a payload may hold anything, lines too
                self._latest[name] = payload
                self._seen.append((name, payload))


class Federation:
    """Broker, aggregator and devices, each a process, none of them started yet.

    ``broker`` is a mosquitto configuration for everybody; None: the shipped one, with accounts.
    ``task`` and ``device`` are settings that differ from quick ones. Unless they are ``signed``,
    messages are believed as they come.
    """

    def __init__(
        self,
        folder: Path,
        devices: Iterable[str],
        *,
        task: Settings | None = None,
        device: Settings | None = None,
        broker: str | None = None,
        signed: bool = True,
    ) -> None:
        self.folder = folder
        self.signed = signed
        self._identity: dict[str, object] = {"required": signed}
        self.devices = tuple(devices)
        self.broker = self._make_broker(broker)
        self._has_accounts = broker is None
        self._processes: dict[str, Process] = {}
        self._monitors: list[Monitor] = []
        self._device_settings = device or {}
        self._task_settings = task or {}
        self._enrol()
        self.write_aggregator()
        for name in self.devices:
            self.write_device(name)

    # --- the whole ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.broker.start()
        self.monitor = self.watch("monitor")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()
        self.broker.stop()
        if error is not None:
            for path in sorted(self.folder.glob("*.log")):
                sys.stdout.write(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}\n")

    def start(self, *device_options: str) -> Self:
        """Start the aggregator and every device."""
        self.start_aggregator()
        for name in self.devices:
            self.start_device(name, *device_options)
        return self

    def stop(self) -> None:
        """End all processes but the broker, politely: devices first."""
        for name in reversed(list(self._processes)):
            process = self._processes[name]
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            _wait(process)
        self._processes.clear()
        while self._monitors:
            self._monitors.pop().close()

    def until(
        self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait until it holds; fail, saying what did not happen."""
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"{patience_s:g} s: {what}"
            for name, process in self._processes.items():
                assert process.poll() in (None, -signal.SIGKILL), f"{name} failed: {what}"
            time.sleep(_POLL_S)

    # --- one process -------------------------------------------------------------------------

    def start_aggregator(self, *options: str) -> None:
        """Start it; options are those of `tests.support.run_aggregator`."""
        module = "tests.support.run_aggregator"
        self._fork("aggregator", module, str(self.config_path("aggregator")), *options)

    def start_device(self, name: str, *options: str) -> None:
        """Start a device; options are those of `tests.support.run_device`."""
        files = [str(self.config_path(name)), str(self.folder / f"{name}.record")]
        self._fork(name, "tests.support.run_device", *files, *options)

    def start_own_engine(self, name: str) -> None:
        """Start a device as its users do, with the SDK's own engine on the data it names."""
        assert not self.is_running(name), f"{name} runs already"
        command = [sys.executable, "-m", "device_sdk", "run", "--config"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command, str(self.config_path(name))],
                cwd=ROOT,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def limit_files(self, name: str, num_bytes: int | None) -> None:
        """Let no file of a running process grow beyond ``num_bytes``; None: lift the limit."""
        soft = resource.RLIM_INFINITY if num_bytes is None else num_bytes
        limits = (soft, resource.RLIM_INFINITY)
        resource.prlimit(self._processes[name].pid, resource.RLIMIT_FSIZE, limits)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process."""
        self._processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """``kill -9``; it may be dead already."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def is_running(self, name: str) -> bool:
        """Whether a process is alive."""
        return name in self._processes and self._processes[name].poll() is None

    def status(self, name: str) -> int | None:
        """Return the exit status of a process; None while it runs."""
        return self._processes[name].poll()

    def memory_kib(self, name: str) -> int:
        """Return how much memory a process has resident."""
        status = Path(f"/proc/{self._processes[name].pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0])

    def watch(self, name: str, *filters: str) -> Monitor:
        """Start one more plain subscriber, of all that people may read unless told otherwise."""
        path = self.folder / f"{name}.log"
        monitor = Monitor(path, self.broker.port, self._login(), filters)
        self._monitors.append(monitor)
        return monitor

    # --- what they say and keep --------------------------------------------------------------

    @property
    def version(self) -> int:
        """The newest version that a subscriber was told of; -1 before the first."""
        return int(self.monitor.report("metrics").get("version", -1))

    @property
    def refused(self) -> dict[str, int]:
        """How often each reason refused something, as a subscriber sees it."""
        return dict(self.monitor.report("metrics").get("refused", {}))

    @property
    def config(self) -> AggregatorConfig:
        """The aggregator's configuration."""
        return load_config(self.config_path("aggregator"))

    def grows(self, num_versions: int = 3, patience_s: float = PATIENCE_S) -> None:
        """Wait until there are some versions more than now."""
        goal = max(0, self.version) + num_versions
        self.until(lambda: self.version >= goal, f"no version {goal}", patience_s)

    def all_go_on(self) -> None:
        """Wait until every device has got two receipts more."""
        goals = {name: len(self.record(name).receipts) + 2 for name in self.devices}
        self.until(
            lambda: all(len(self.record(name).receipts) >= goals[name] for name in goals),
            f"two more receipts for each, after {goals}",
        )

    def log(self, name: str) -> str:
        """Return what a process has said so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def record(self, name: str) -> DeviceRecord:
        """Return what a device has stored, and what it was told."""
        return DeviceRecord.read(self.folder / f"{name}.record")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the aggregator's database, behind its back."""
        path = Path(self.config.state_dir) / f"{TASK}.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    # --- the operator ------------------------------------------------------------------------

    @property
    def operator(self) -> Path:
        """What is on no machine of the federation."""
        return self.folder / "operator"

    def keys_file(self, name: str) -> Path:
        """Return where a device's keys are."""
        return self.folder / f"{name}.keys"

    def _enrol(self) -> None:
        if self.signed:
            self._hand_out(enrol_plain(self.operator, TASK, self.devices))

    def _hand_out(self, keys_files: Mapping[str, Path]) -> None:
        """Give everybody their keys."""
        key_file = shutil.copy(self.operator / AGGREGATOR_KEY, self.folder / "aggregator.key")
        public = read_key(self.operator / ENROLMENT_PUBLIC)
        self._identity |= {"key_file": str(key_file), "enrolment_key": public.hex()}
        for name, path in keys_files.items():
            shutil.copy(path, self.keys_file(name))

    # --- configuration -----------------------------------------------------------------------

    def config_path(self, name: str) -> Path:
        """Return where the configuration of a process is."""
        return self.folder / f"{name}.toml"

    def state_dir(self, name: str) -> Path:
        """Return where a process keeps what must survive."""
        return self.folder / f"{name}.state"

    def write_aggregator(self, **task: object) -> None:
        """Configure the aggregator, as it is read at its next start.

        ``task`` are settings that differ from those that the federation was made with.
        """
        self._write("aggregator", self._aggregator_table({**self._task_settings, **task}))

    def write_device(self, name: str, *, copy: str = "", **settings: object) -> None:
        """Configure a device; ``copy`` names a process of its own that is the same device."""
        process = copy or name
        table = {
            "task": TASK,
            "device": name,
            "state_dir": str(self.state_dir(process)),
            "broker": self._broker_table(name),
            "retry": {"first_s": 0.4, "cap_s": 2.0},
            "telemetry": {"interval_s": 1},
            **({"identity": {"keys": str(self.keys_file(name))}} if self.signed else {}),
            **self._device_settings,
            **settings,
        }
        broker = {**self._broker_table(name), **_table(table["broker"])}
        self._write(process, {**table, "broker": broker})

    def _aggregator_table(self, task: Settings) -> Settings:
        at_the_top = {name: task[name] for name in ("bandwidth",) if name in task}
        return {
            **at_the_top,
            "state_dir": str(self.state_dir("aggregator")),
            "monitor_s": 0.1,
            "broker": self._broker_table("aggregator"),
            "secure": {"scheme": "none"},
            "identity": self._identity,
            "task": {
                "task": TASK,
                "model": SMALL,
                "codec": "topk-0.25/int8",
                "max_staleness": 1_000_000,
                "check_in_s": 1,
                "buffered": {"goal": 4, "max_wait_s": 3600.0},
                **{name: value for name, value in task.items() if name not in at_the_top},
            },
        }

    def _broker_table(self, account: str) -> Settings:
        table = {"port": self.broker.port, "backoff_first_s": 0.05, "backoff_cap_s": 0.3}
        if not self._has_accounts:
            return table
        return {**table, "password_file": str(self._secret(account))}

    def _make_broker(self, config: str | None) -> Mosquitto:
        folder = self.folder / "broker"
        folder.mkdir()
        self._has_accounts = config is None
        if config is not None:
            return Mosquitto(folder, config)
        port = free_port()
        files = write_broker(folder, self.devices, port=port)
        return Mosquitto(folder, files.config.read_text(), port=port)

    def _login(self) -> list[str]:
        if not self._has_accounts:
            return []
        return ["-u", "monitor", "-P", self._secret("monitor").read_text().strip()]

    def _secret(self, account: str) -> Path:
        return self.folder / "broker" / "secrets" / account

    def _write(self, name: str, table: Settings) -> None:
        lines = [f"{key} = {_toml(value)}\n" for key, value in table.items()]
        self.config_path(name).write_text("".join(lines))

    def _fork(self, name: str, module: str, *arguments: str) -> None:
        assert not self.is_running(name), f"{name} runs already"
        log = self.folder / f"{name}.log"
        self._processes[name] = forker().start(module, arguments, log)


def _wait(process: Process) -> None:
    try:
        process.wait(_STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _table(value: object) -> Settings:
    assert isinstance(value, Mapping)
    return value


def _toml(value: object) -> str:
    """Return a value as TOML writes it inline: JSON but for tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
