"""``fedbus enrol``: devices, their keys and rosters, made apart from the task's machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from aggregator.config import AggregatorConfig, load_config
from fedbus.announcements import Collector, announced_text, parse_announced
from fedbus.enrol_devices import enrol_devices
from fedbus.enrol_tokens import redeem, token
from fedbus.enrolment import (
    AGGREGATOR_KEY,
    DEFAULT_COHORT,
    ENROLMENT_KEY,
    ENROLMENT_PUBLIC,
    ROSTERS,
    Enrolled,
    enrol,
    enrol_next,
    newest_rosters,
    read_roster,
)
from fedbus.key_files import PUBLIC, create, parse_key, read_key, refuse_existing
from fedbus.known import DEVICES
from fedbus.workplace import FED, Workplace, copy_rosters
from protocol.errors import ConfigError
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster
from protocol.topics import Topics

app = typer.Typer(
    help="Enrol devices: `fedbus enrol DEVICE...` gives each a folder with all that it needs.",
    no_args_is_help=True,
)
app.command("device")(enrol_devices)
app.command("token")(token)
app.command("redeem")(redeem)

DirectoryArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="The enrolment's folder (`fedbus init`: enrolment), on no machine of the task.",
    ),
]
ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", help="The aggregator's settings: model, [secure], [robust], [privacy]."
    ),
]
CohortOption = Annotated[
    str, typer.Option(help="Its name: who shares masks with whom; 3 to 128 devices.")
]


@app.command()
def new(
    directory: DirectoryArgument,
    config: ConfigOption = Path(FED),
    *,
    device: Annotated[list[str] | None, typer.Option(help="A device; repeat for more.")] = None,
    devices: Annotated[Path | None, typer.Option(help="A file with one device a line.")] = None,
    cohort: CohortOption = DEFAULT_COHORT,
    epoch: Annotated[
        int, typer.Option(min=1, help="The first epoch; above any that the cohort has had.")
    ] = 1,
) -> None:
    """Make a cohort's first roster, and a keys file for each device. Overwrites nothing.

    For a broker of another making: `fedbus init` and `fedbus enrol DEVICE` do this, too, with
    certificates.
    """
    checked = load_config(config)
    names = [*(device or []), *(_lines(devices) if devices else [])]
    made = enrol(
        directory,
        _parameters(checked, len(names)),
        checked.task.task,
        names,
        cohort=cohort,
        epoch=epoch,
        valid_s=checked.secure.epoch_s,
    )
    _say_roster(made.roster)
    _say_files(made)
    _say_own(made)


@app.command("next")
def next_(
    directory: DirectoryArgument = Path("enrolment"),
    config: ConfigOption = Path(FED),
    *,
    keys: Annotated[Path, typer.Option(help="What `fedbus enrol collect` wrote.")],
    add: Annotated[
        list[str] | None,
        typer.Option(help="A new device that is to get a keys file alone; repeat for more."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="A device that leaves; repeat for more.")
    ] = None,
    cohort: CohortOption = DEFAULT_COHORT,
) -> None:
    """Make a cohort's next roster, of the keys that `fedbus enrol collect` read from the broker.

    Devices that were enrolled since are added by themselves. It says what the settings say now:
    start the aggregator again if they have changed.
    """
    checked = load_config(config)
    made = enrol_next(
        directory,
        lambda num_devices: _parameters(checked, num_devices),
        parse_announced(_text(keys)),
        cohort=cohort,
        add=add or [],
        remove=remove or [],
        valid_s=checked.secure.epoch_s,
    )
    laid = copy_rosters(Workplace(directory.absolute().parent), directory / ROSTERS)
    _say_roster(made.roster)
    _say_files(made, laid)


@app.command()
def collect(
    config: ConfigOption = Path(FED),
    *,
    out: Annotated[Path, typer.Option(help="The file to write, for `fedbus enrol next`.")],
    cohort: CohortOption = DEFAULT_COHORT,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for devices.")] = 10.0,
) -> None:
    """Read the keys that devices announced for the next epoch. Exit status 1 if one is missing.

    They are read from the broker, as the aggregator. Whether they are the devices' own, `fedbus
    enrol next` checks.
    """
    checked = load_config(config)
    refuse_existing([out])
    present = _present(checked, cohort)
    wanted, epoch = [member.device for member in present.members], present.epoch + 1
    collector = Collector(checked.broker, Topics(checked.task.prefix, checked.task.task))
    collector.collect(wanted, epoch, deadline)
    missing = collector.missing(wanted, epoch)
    if len(missing) == len(wanted) and collector.problem:
        where = f"{checked.broker.host}:{checked.broker.port}"
        raise ConfigError(f"no way in at the broker {where}: {collector.problem}")
    found = {name: given for name, given in collector.announced.items() if name in wanted}
    try:
        create(out, announced_text(found).encode(), PUBLIC)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from None
    typer.echo(f"wrote {out}: {len(wanted) - len(missing)} of {len(wanted)} keys of epoch {epoch}")
    if missing:
        typer.echo(f"missing: {', '.join(missing)} (a device announces when it is online)")
        raise typer.Exit(1)


@app.command()
def show(
    roster: Annotated[Path, typer.Argument(metavar="ROSTER", help="A roster's file.")],
    *,
    key: Annotated[
        Path | None,
        typer.Option(help="The enrolment's public key; else the one beside the rosters' folder."),
    ] = None,
) -> None:
    """Check a roster, and say who and what is in it."""
    public = key or roster.absolute().parent.parent / ENROLMENT_PUBLIC
    opened = read_roster(roster, read_key(public))
    _say_roster(opened)
    width = max(len(member.device) for member in opened.members)
    for index, member in enumerate(opened.members):
        identity, epoch_key = member.identity.hex()[:16], member.epoch_key.hex()[:16]
        typer.echo(f"{index:>5}  {member.device:<{width}}  {identity}…  {epoch_key}…")


def spell_out(argv: Sequence[str]) -> list[str]:
    """Return a command line in which ``enrol NAME...`` says ``enrol device NAME...``.

    A word that is no command of this group is a device's name. The group has no options but help.
    """
    match argv:
        case ["enrol", word, *rest] if word not in {"-h", "--help", *_commands()}:
            return ["enrol", "device", word, *rest]
    return list(argv)


def _commands() -> set[str]:
    given = ((each.name, each.callback) for each in app.registered_commands)
    return {name or (callback.__name__ if callback else "") for name, callback in given}


def _parameters(config: AggregatorConfig, num_devices: int) -> Parameters:
    if not config.secure.enabled:
        raise ConfigError('secure.scheme = "none": name a scheme first, e.g. "seedmask"')
    size = config.task.trained().layout.size
    return config.secure.parameters(config.task, num_devices, size)


def _present(config: AggregatorConfig, cohort: str) -> Roster:
    """Return the newest roster that the aggregator has of a cohort."""
    secure, identity = config.secure, config.identity
    if not secure.rosters or not identity.enrolment_key:
        raise ConfigError("secure.rosters and identity.enrolment_key: `fedbus enrol new` says what")
    rosters = newest_rosters(Path(secure.rosters), parse_key(identity.enrolment_key))
    if cohort not in rosters:
        raise ConfigError(f"secure.rosters {secure.rosters}: no roster of cohort {cohort!r}")
    return rosters[cohort]


def _say_roster(roster: Roster) -> None:
    given = roster.parameters
    samples = f"up to {given.samples_cap} samples" if given.samples_cap else "every device alike"
    typer.echo(f"task {roster.task}, cohort {roster.cohort}, epoch {roster.epoch}, {given.scheme}")
    for line in (
        f"hash         {roster.hash.hex()}",
        f"devices      {given.num_devices} (N), of which {given.num_malicious} may lie (t)",
        f"answers      any {given.num_answers} unmask a sum (U), {given.num_noise} see nothing (T)",
        f"buffers      {given.min_contributors} to {given.max_contributors} updates",
        f"updates      {given.size} values within ±{given.clip}, {given.bits} bits; {samples}",
        f"valid        {roster.valid_s} s",
        f"aggregator   {roster.aggregator.hex()}",
    ):
        typer.echo(f"  {line}")


def _say_files(made: Enrolled, laid: Sequence[Path] = ()) -> None:
    """Say where what goes; ``laid`` are the rosters that the aggregator here has already."""
    typer.echo(f"\n{made.roster_file}")
    if laid:
        typer.echo(f"  and for the aggregator: {', '.join(map(str, laid))}")
    else:
        typer.echo("  to the aggregator's host, into the folder secure.rosters")
    if made.keys_files:
        typer.echo(f"{made.directory / DEVICES}/<id>.json: {len(made.keys_files)} new")
        typer.echo(
            "  SECRET: each to its device (identity.keys) and to nobody else; then delete it"
        )


def _say_own(made: Enrolled) -> None:
    if made.aggregator_file.exists():
        typer.echo(f"{made.aggregator_file}")
        typer.echo("  SECRET: to the aggregator's host (identity.key_file); then delete it")
    typer.echo(f"{made.directory / ENROLMENT_KEY}")
    typer.echo("  SECRET: stays here. NEVER on the aggregator's host: with it, whoever runs the")
    typer.echo("  aggregator could enrol devices of its own, and read single updates")
    typer.echo("\nin fed.toml:\n\n[secure]")
    typer.echo(f'rosters = "{ROSTERS}"')
    typer.echo("\n[identity]")
    typer.echo(f'key_file = "{AGGREGATOR_KEY}"')
    typer.echo(f'enrolment_key = "{made.enrolment_key.hex()}"')


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in _text(path).splitlines())
    return [line for line in lines if line]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text") from None
