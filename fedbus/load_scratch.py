"""A broker and an aggregator of one's own to try a load on, in a folder that may be thrown away."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from broker_config.accounts import AGGREGATOR, account_names
from broker_config.authority import Authority
from broker_config.files import write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.private_files import create
from broker_config.running import Broker, free_port, running_broker, running_secure_broker
from fedbus.children import Child, start, stop
from fedbus.federation import Tables, write_tables
from fedbus.listener import ACCOUNT, Listener
from fedbus.workplace import CA_CERTIFICATE, DEVICE_CERTIFICATE, DEVICE_KEY
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX
from transport.config import BrokerConfig

TASK: Final = "load"
#: The demonstration's model, 2,410 params: an update is one packet, as of most small devices.
MODEL: Final = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
#: A version counts this part of the devices, and no more than `MAX_GOAL`.
GOAL_PART: Final = 8
MAX_GOAL: Final = 250
#: Nobody trains more than this many at a time: the rest waits for its lease.
MAX_CONCURRENCY: Final = 1_000
START_DEADLINE_S: Final = 30.0
_DIGITS: Final = 5
_TAIL_LINES: Final = 8


@dataclass(frozen=True, slots=True)
class Scratch:
    """What runs, and how devices get in. ``config`` is the aggregator's file."""

    broker: Broker
    aggregator: Child
    config: Path
    carried: Path | None = None

    def broker_config(self, device: str) -> BrokerConfig:
        """Return how a device connects."""
        host, port = self.broker.host, self.broker.port
        if self.carried is not None:
            return carried_config(BrokerConfig(host=host, port=port), self.carried / device)
        return BrokerConfig(
            host=host, port=port, password_file=str(self.broker.files.secret(device))
        )

    def trouble(self) -> str:
        """Return how broker or aggregator ended, with its last words; empty: they run."""
        if _has_ended(self.broker.pid):
            said = self.broker.files.log.read_text(encoding="utf-8", errors="replace")
            lines = [f"    {line}" for line in said.splitlines()[-_TAIL_LINES:]]
            return "\n".join(["the broker ended early; its last words:", *lines])
        return "" if self.aggregator.alive else self.aggregator.obituary()


def _has_ended(pid: int) -> bool:
    """Whether a process that we began has ended; whoever waits for it still can."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def device_names(num_devices: int) -> tuple[str, ...]:
    """Return ids that sort as they count; a smaller fleet's are the first of a larger one's."""
    return tuple(f"load-{number:0{_DIGITS}}" for number in range(1, num_devices + 1))


def carried_config(common: BrokerConfig, folder: Path) -> BrokerConfig:
    """Return how a device connects whose certificate is in the folder that `carry` made."""
    return replace(
        common,
        ca_file=str(folder / CA_CERTIFICATE),
        certificate_file=str(folder / DEVICE_CERTIFICATE),
        key_file=str(folder / DEVICE_KEY),
    )


@contextmanager
def running_scratch(
    folder: Path, devices: Sequence[str], *, tls: bool = False
) -> Iterator[Scratch]:
    """Run a mosquitto with an account for each device, and an aggregator that is there.

    With ``tls`` everybody comes with a certificate, and nobody with a password. Raises BrokerError
    if mosquitto is not there (the embedded broker is not made for fleets), ConfigError with its
    last words if the aggregator does not start.
    """
    carried = folder / "carry" if tls else None
    if carried is not None:
        _write_secure(folder, carried, devices)
    with (
        running_broker(folder / "broker", devices, engine="mosquitto")
        if carried is None
        else running_secure_broker(folder / "broker")
    ) as broker:
        config = write_aggregator(folder / AGGREGATOR, broker, len(devices), carried=carried)
        child = start_aggregator(config)
        try:
            _await(broker, child, carried)
            yield Scratch(broker, child, config, carried)
        finally:
            stop([child])


def _write_secure(folder: Path, carried: Path, devices: Sequence[str]) -> None:
    authority = Authority.create(folder / "ca", TASK)
    write_secure_broker(
        folder / "broker",
        authority,
        ["127.0.0.1"],
        ports=Ports(free_port(), 0, 0),
        listen="127.0.0.1",
    )
    for name in account_names(devices):
        issued, own = authority.issue_client(name), carried / name
        own.mkdir(mode=0o700, parents=True)
        for file, data in (
            (CA_CERTIFICATE, authority.certificate_pem),
            (DEVICE_CERTIFICATE, issued.certificate),
            (DEVICE_KEY, issued.key),
        ):
            create(own / file, data)


def _await(broker: Broker, aggregator: Child, carried: Path | None) -> None:
    """Return when the aggregator is on the bus: who checks in before is heard much later."""
    own = BrokerConfig() if carried is None else carried_config(BrokerConfig(), carried / ACCOUNT)
    listener = Listener(
        host=broker.host,
        port=broker.port,
        prefix=DEFAULT_PREFIX,
        task=TASK,
        password_file=broker.files.secret(ACCOUNT) if carried is None else None,
        tls=own.files_of_tls,
    )
    with listener:
        listener.listen_until(lambda: listener.view.known or not aggregator.alive, START_DEADLINE_S)
        if not listener.view.known:
            raise ConfigError(aggregator.obituary())


def start_aggregator(config: Path) -> Child:
    """Start an aggregator; its log is beside its configuration."""
    module = ["fedbus", "aggregator", "run", "--config", str(config)]
    return start(AGGREGATOR, module, config.with_name("log"), {})


def write_aggregator(
    folder: Path, broker: Broker, num_devices: int, carried: Path | None = None, **task: object
) -> Path:
    """Write the aggregator's configuration; ``task`` are settings that differ from these.

    Its certificate is in a folder of ``carried``; without, it has a password.
    """
    folder.mkdir(mode=0o700)
    goal = max(1, min(MAX_GOAL, num_devices // GOAL_PART))
    tables: Tables = {
        "": {"state_dir": str(folder / "state")},
        "secure": {"scheme": "none"},
        "identity": {"required": False},
        "broker": {
            "port": broker.port,
            "backoff_cap_s": 5.0,
            **_way_in(broker, carried),
        },
        "task": {
            "task": TASK,
            "codec": "topk-0.1/int8",
            "check_in_s": 30,
            "max_staleness": 1_000_000,
            "max_devices": max(1, num_devices),
            **task,
        },
        "task.model": MODEL,
        "task.buffered": {
            "goal": goal,
            "concurrency": min(MAX_CONCURRENCY, num_devices),
            "max_wait_s": 2.0,
        },
    }
    return write_tables(folder / "fed.toml", tables)


def _way_in(broker: Broker, carried: Path | None) -> Mapping[str, str]:
    if carried is None:
        return {"password_file": str(broker.files.secret(AGGREGATOR))}
    own = carried_config(BrokerConfig(), carried / AGGREGATOR)
    return {
        "ca_file": own.ca_file,
        "certificate_file": own.certificate_file,
        "key_file": own.key_file,
    }
