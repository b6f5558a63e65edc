"""``fedbus aggregator``: run a task's aggregator, or check its configuration."""

import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from aggregator.config import AggregatorConfig, load_config, load_enrolment, load_trust
from aggregator.records import DeviceRecord
from aggregator.secure_config import RosterMismatchError
from aggregator.service import Service
from aggregator.store import open_store
from aggregator.wording import many
from device_sdk.engine import Model, TrainingError, load_npz
from fedbus.roster_steps import explained
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.roster import Roster, open_roster
from protocol.topics import check_id
from transport.secret_files import new_passphrase, open_secret_file, replace_secret_file

#: The settings, where nothing else is said.
FED: Final = "fed.toml"

app = typer.Typer(help="Run a task's aggregator, or check its configuration.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The aggregator's settings (`fedbus init`).")
]


@app.command()
def run(
    config: ConfigOption = Path(FED),
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    """Serve a task until SIGTERM or Ctrl-C."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    checked = load_config(config)
    check_files(checked)
    service = Service(checked)

    def leave(_number: int, _frame: FrameType | None) -> None:
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    logging.getLogger(__name__).info("aggregator of task %s starts", checked.task.task)
    try:
        service.run()
    except RosterMismatchError as error:
        raise explained(error, config) from None


@app.command()
def check(config: ConfigOption = Path(FED)) -> None:
    """Check a configuration and the files it names, and say what it would do."""
    checked = load_config(config)
    num_held_out = check_files(checked)
    try:
        masked = _masking(checked)
    except RosterMismatchError as error:
        raise explained(error, config) from None
    task = checked.task
    trained = task.trained()
    some = "" if trained.layout is trained.whole else f" ({trained.layout.size} trained)"
    held_out = f"{num_held_out} held-out rows" if num_held_out else "no held-out data"
    typer.echo(
        f"{config}: task {task.task} ({task.mode}), {masked}, "
        f"{trained.whole.size} params{some}, {held_out}, "
        f"broker {checked.broker.host}:{checked.broker.port}"
    )


def _masking(config: AggregatorConfig) -> str:
    """Say how updates are masked. Raises ConfigError for rosters that do not fit."""
    signed = "nothing signed" if load_trust(config) is None else "all signed"
    enrolment = load_enrolment(config)
    if enrolment is None:
        return f"every update in sight, {signed}"
    num_params = config.task.trained().layout.size
    newest: dict[str, Roster] = {}  # of each cohort; what came before may have had other settings
    for given in enrolment.rosters:
        try:
            roster = open_roster(given, enrolment.enrolment_key)
        except RemoteProtocolError as error:
            raise ConfigError(f"secure.rosters: {error.detail}") from None
        newest[roster.cohort] = max(
            roster, newest.get(roster.cohort, roster), key=lambda each: each.epoch
        )
    for roster in newest.values():
        config.secure.check_roster(config.task, roster.parameters, num_params)
    rosters = many(len(enrolment.rosters), "roster")
    return f"masked by {config.secure.scheme} ({rosters}), {signed}"


@app.command()
def lock(config: ConfigOption = Path(FED)) -> None:
    """Lock the aggregator's key file with a passphrase."""
    identity = load_config(config).identity
    file = Path(identity.key_file)
    text, passphrase = open_secret_file(file, identity.passphrase_file)
    if passphrase:
        raise ConfigError(f"{file}: it is locked already")
    try:
        replace_secret_file(file, text, new_passphrase(identity.passphrase_file, file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    typer.echo(f"{file} is locked")


@app.command()
def release(
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="The device whose medium was replaced.")
    ],
    config: ConfigOption = Path(FED),
) -> None:
    """Free a device's id for its next installation, on a new medium. Stop the aggregator first.

    To end a quarantine: `fedbus devices release`.
    """
    checked = load_config(config)
    check_id(device, "device")
    store = open_store(Path(checked.state_dir), checked.task.task, checked.database or None)
    try:
        store.commit([DeviceRecord(device, b"")])
    finally:
        store.close()
    typer.echo(f"{device} is free: the next installation that checks in as {device} gets it")


def check_files(config: AggregatorConfig) -> int:
    """Read the files that ``config`` names; return how many rows are held out.

    Raises ConfigError, which names the key and the file.
    """
    config.broker.check_files()
    _check_rows(config, "robust.root_file", config.task.robust.root_file)
    return _check_rows(config, "evaluation.file", config.evaluation.file)


def _check_rows(config: AggregatorConfig, key: str, file: str) -> int:
    """Return how many rows are in a file, which must fit the model; 0 without a file."""
    if not file:
        return 0
    x, y = load_npz(file)
    try:
        Model(config.task.model_spec()).check_batch(x, y)
    except TrainingError as error:
        raise ConfigError(f"{key} {file}: {error}") from None
    return len(x)
