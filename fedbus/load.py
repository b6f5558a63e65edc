"""``fedbus load``: thousands of real MQTT clients from one process, against a real broker."""

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console

from aggregator.wording import many
from fedbus.load_figures import Meter, Watched, memory_kib, name_of
from fedbus.load_fleet import Fleet, Pace
from fedbus.load_run import Outcome, drive
from fedbus.load_scratch import TASK, carried_config, device_names, running_scratch
from fedbus.load_screen import tables
from fedbus.load_trainer import DryTrainer
from fedbus.temporary import temporary_folder
from fedbus.whole_files import check_file, write_whole
from fedbus.workplace import DEVICE_CERTIFICATE
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics
from transport.config import BrokerConfig

#: One address has about 28,000 ports for connections to one broker.
MAX_DEVICES: Final = 25_000
#: Descriptors beside one for each client.
SPARE_FILES: Final = 64
_INTERRUPTED: Final = 130


DevicesOption = Annotated[
    int,
    typer.Option(min=1, max=MAX_DEVICES, help="How many clients, load-00001, load-00002, ..."),
]
UpdatesOption = Annotated[int, typer.Option(min=1, help="Updates of each of them.")]
BrokerOption = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where the broker is.", show_default=False)
]
TaskOption = Annotated[
    str, typer.Option("--task", "-t", help="The aggregator's task.", show_default=False)
]
ScratchOption = Annotated[
    bool,
    typer.Option(
        "--scratch", help="Start a mosquitto and an aggregator for it, in a temporary folder."
    ),
]
TlsOption = Annotated[
    bool,
    typer.Option("--tls", help="With --scratch: TLS, and a certificate for each client."),
]
RateOption = Annotated[
    float, typer.Option(min=0.0, help="Updates a second at most; 0: as many as go.")
]
TrainOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds that a training takes, half more or less.")
]
ConnectRateOption = Annotated[
    float, typer.Option(min=0.0, help="New connections a second; 0: all at once, a storm.")
]
PrefixOption = Annotated[str, typer.Option(help="What stands before every topic.")]
UsernameOption = Annotated[
    str, typer.Option(help="One account for all; by default each client has its own.")
]
PasswordFileOption = Annotated[
    Path | None, typer.Option(help="A file with the password of all, alone.")
]
PasswordsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="A folder with a password file for each client, named like it."
    ),
]
CarriedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A folder with one for each client, named like it: its certificate, key and"
        " ca.crt, as enrolment/carry of `fedbus init`.",
    ),
]
MqttOption = Annotated[
    Literal["auto", "5", "3.1.1"], typer.Option("--protocol", help="MQTT version.")
]
WatchPidOption = Annotated[
    list[int] | None,
    typer.Option(metavar="PID", help="Show the memory of this process too; repeatable."),
]
PatienceOption = Annotated[
    float, typer.Option(min=1.0, help="Seconds without any progress after which it gives up.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Decides the deltas.")]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Write the figures here.")
]


def load(
    *,
    devices: DevicesOption = 1_000,
    updates: UpdatesOption = 3,
    broker: BrokerOption = "",
    task: TaskOption = "",
    scratch: ScratchOption = False,
    with_tls: TlsOption = False,
    rate: RateOption = 0.0,
    train: TrainOption = 0.0,
    connect_rate: ConnectRateOption = 500.0,
    prefix: PrefixOption = DEFAULT_PREFIX,
    username: UsernameOption = "",
    password_file: PasswordFileOption = None,
    passwords: PasswordsOption = None,
    carried: CarriedOption = None,
    mqtt: MqttOption = "auto",
    watch_pid: WatchPidOption = None,
    patience: PatienceOption = 90.0,
    seed: SeedOption = 0,
    json_file: JsonFileOption = None,
) -> None:
    """Put thousands of devices on a broker, and see what it and the aggregator make of them.

    Each is a real MQTT client with the product's own session; only training is replaced, by adding
    a delta that was drawn once. Prints updates a second, latencies, memory, and what was lost. Exit
    status 1 if an update was lost or counted twice, or if it had to give up.

    The clients count in the task like any other: use a task made for this, or --scratch.
    """
    console = Console()
    names = device_names(devices)
    given = _Given(broker, username, password_file, passwords, carried, mqtt)
    watched = _watched(watch_pid or [])
    if json_file is not None:
        check_file(json_file, "--json")
    allow_files(devices + SPARE_FILES)
    with ExitStack() as stack:
        target = (
            stack.enter_context(_scratch(names, given, task, tls=with_tls))
            if scratch
            else _target(names, given, task)
        )
        fleet = stack.enter_context(
            Fleet(
                Topics(prefix, target.task),
                target.brokers,
                DryTrainer(seed),
                num_updates=updates,
                pace=Pace(connects_per_s=connect_rate, train_s=train, updates_per_s=rate),
                seed=seed,
            )
        )
        meter = Meter(fleet, [*target.watched, *watched], time.monotonic())
        outcome = drive(fleet, meter, patience_s=patience, console=console, trouble=target.trouble)
    _say(console, outcome)
    if json_file is not None:
        write_whole(json_file, json.dumps(outcome.figures, indent=2).encode() + b"\n")
    raise typer.Exit(_exit_status(outcome))


def allow_files(needed: int) -> None:
    """Let this process, and those it starts, open so many files. Raises ConfigError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if needed > hard:
        raise ConfigError(
            f"{needed} open files are needed and {hard} allowed: raise the limit (`ulimit -n"
            f" {needed}` as root, LimitNOFILE= of a systemd unit, --ulimit nofile= of a container),"
            " or take fewer --devices"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- where the clients go ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """A task at a broker. ``trouble`` says why it is of no use any more."""

    task: str
    brokers: Mapping[str, BrokerConfig]
    watched: tuple[Watched, ...] = ()
    trouble: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class _Given:
    """How to get in, as the command line has it."""

    address: str
    username: str
    password_file: Path | None
    passwords: Path | None
    carried: Path | None
    protocol: str


@contextmanager
def _scratch(names: Sequence[str], given: _Given, task: str, *, tls: bool) -> Iterator[_Target]:
    credentials = (given.username, given.password_file, given.passwords, given.carried)
    if given.address or task or any(credentials):
        raise ConfigError(
            "--scratch starts a broker and an aggregator of its own: leave out --broker, --task,"
            " --username, --password-file, --passwords and --carried"
        )
    with (
        temporary_folder("fedbus-load-") as folder,
        running_scratch(folder, names, tls=tls) as running,
    ):
        aggregator = running.aggregator.process
        yield _Target(
            TASK,
            {name: running.broker_config(name) for name in names},
            (Watched("broker", running.broker.pid), Watched("aggregator", aggregator.pid)),
            running.trouble,
        )


def _target(names: Sequence[str], given: _Given, task: str) -> _Target:
    if not given.address or not task:
        raise ConfigError(
            "say where: --broker HOST:PORT --task TASK; or --scratch, to try it on this machine"
        )
    host, port = _address(given.address)
    common = BrokerConfig(
        host=host,
        port=port,
        username=given.username,
        password_file=str(given.password_file or ""),
        protocol=given.protocol,
        tls="none" if given.carried is None else "auto",  # whoever loads a broker knows what it has
    )
    if given.carried is not None:
        _check_carried(given.carried, names)
        folder = given.carried
        return _Target(task, {name: carried_config(common, folder / name) for name in names})
    if given.passwords is None:
        return _Target(task, dict.fromkeys(names, common))
    _check_passwords(given.passwords, names)
    return _Target(
        task,
        {name: replace(common, password_file=str(given.passwords / name)) for name in names},
    )


def _address(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--broker {given!r}: use HOST:PORT, like 192.168.1.5:1883")
    return host.strip("[]"), int(port)


def _check_passwords(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"--passwords {folder}: no file {missing[0]} and {len(missing) - 1} more;"
            " `fedbus broker up` makes accounts, and its secrets/ is such a folder"
        )


def _check_carried(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name / DEVICE_CERTIFICATE).is_file()]
    if missing:
        raise ConfigError(
            f"--carried {folder}: no {missing[0]}/{DEVICE_CERTIFICATE} and {len(missing) - 1} more;"
            " `fedbus init --device` and `fedbus enrol` make such folders"
        )


def _watched(pids: Sequence[int]) -> list[Watched]:
    for pid in pids:
        if memory_kib(pid) is None:
            raise ConfigError(f"--watch-pid {pid}: there is no such process to look at here")
    return [Watched(f"{name_of(pid)} {pid}", pid) for pid in pids]


# --- the end -------------------------------------------------------------------------------------


def _say(console: Console, outcome: Outcome) -> None:
    for part in tables(outcome.figures):
        console.print(part)
    if outcome.problem:
        console.print(outcome.problem, style="red", markup=False, highlight=False, soft_wrap=True)
    if outcome.interrupted:
        console.print("interrupted: these are the figures until then", style="yellow")
    if outcome.unanswered:
        console.print(
            f"unanswered, and held by their devices: {many(outcome.unanswered, 'update')}"
        )
    if outcome.lost or outcome.counted_twice:
        console.print(
            f"{many(outcome.lost, 'update')} lost, {outcome.counted_twice} counted twice",
            style="red",
        )
    elif not (outcome.unanswered or outcome.problem or outcome.interrupted):
        console.print("nothing was lost", style="green")


def _exit_status(outcome: Outcome) -> int:
    if outcome.interrupted:
        return _INTERRUPTED
    return int(bool(outcome.lost or outcome.counted_twice or outcome.problem))
