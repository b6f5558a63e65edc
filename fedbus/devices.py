"""``fedbus devices``: who takes part, what speaks against whom, and who is kept out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aggregator.config import AggregatorConfig, load_config
from aggregator.decrees import Decrees, Sheet, meaning, open_decrees
from aggregator.records import Standing, StandingRecord
from aggregator.store_errors import NoStoreError
from aggregator.wording import many
from broker_config.accounts import account_names
from fedbus.key_files import parse_key
from fedbus.roster_steps import next_roster
from protocol.errors import ConfigError
from protocol.secagg.parameters import MIN_COHORT
from protocol.topics import check_id

if TYPE_CHECKING:
    from protocol.secagg.roster import Roster

app = typer.Typer(help="See, quarantine, release and revoke devices.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The aggregator's settings: they name the store.")
]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever looks later.")]
BrokerOption = Annotated[
    Path | None,
    typer.Option(
        "--broker",
        help="The folder of the broker, if it runs on this machine; without it, the one beside the"
        " TOML file.",
        show_default=False,
    ),
]

#: Where an enrolment keeps its authority.
CA: Final = "ca"
#: The broker's folder of `fedbus init`, and what is in it.
_BROKER: Final = ("broker", "acl")
#: The settings, where nothing else is said.
FED: Final = "fed.toml"
#: What a broker elsewhere is told.
_FOLLOWS: Final = (
    "a broker run by `fedbus broker up` elsewhere follows mon/denied by itself; delete secrets/{0}"
    " in its folder, if it has one"
)


@app.command("list")
def list_(
    config: ConfigOption = Path(FED),
    *,
    suspects: Annotated[
        bool, typer.Option("--suspects", help="Only those that something speaks against.")
    ] = False,
) -> None:
    """List devices with their standing and score. The score is at most 10 s old."""
    checked = load_config(config)
    with _decrees(checked) as decrees:
        sheets = decrees.sheets()
    shown = [sheet for sheet in sheets if not suspects or _is_suspect(sheet)]
    if not shown:
        known = many(len(sheets), "device")
        typer.echo(f"nothing speaks against {known}" if sheets else "no devices")
        return
    width = max(len("device"), *(len(sheet.device) for sheet in shown))
    typer.echo(f"{'device':<{width}}  {'standing':<11}  {'score':>5}  why")
    for sheet in shown:
        typer.echo(
            f"{sheet.device:<{width}}  {sheet.standing.value:<11}  {sheet.score:>5.1f}  "
            f"{_why(sheet)}".rstrip()
        )


@app.command()
def show(device: DeviceArgument, config: ConfigOption = Path(FED)) -> None:
    """Show what is held against a device, and why. Exit status 1 if it was never heard of."""
    checked = load_config(config)
    with _decrees(checked) as decrees:
        sheet = decrees.sheet(device)
    if sheet is None:
        typer.echo(f"{device}: never heard of in task {checked.task.task}")
        raise typer.Exit(1)
    limit = checked.task.conduct.threshold
    typer.echo(f"{device}: {sheet.standing.value}" + (f" ({sheet.reason})" * bool(sheet.reason)))
    if sheet.is_cut:
        typer.echo("the broker is told to let it in no more")
    if not sheet.is_registered:
        typer.echo("it has not checked in yet")
    typer.echo(f"score {sheet.score:.1f}, quarantined at {limit:g}" if limit else "no quarantine")
    if not sheet.evidence:
        typer.echo("nothing speaks against it")
        return
    typer.echo(f"\n{'points':>6}  {'times':>7}  what")
    for each in sheet.evidence:
        typer.echo(f"{each.points:>6.1f}  {each.count:>7}  {each.kind}: {meaning(each.kind)}")


@app.command()
def quarantine(
    device: DeviceArgument, config: ConfigOption = Path(FED), *, reason: ReasonOption = ""
) -> None:
    """Refuse a device's updates until it is released. What was taken already stays."""
    checked = load_config(config)
    told = _by_operator(reason)
    account_names([device])
    known_when = _known_when(checked)
    with _decrees(checked) as decrees:
        _refuse_revoked(decrees, device)
        is_known = decrees.sheet(device) is not None
        decrees.decree(StandingRecord(device, Standing.QUARANTINED, told))
    typer.echo(f"{device} is quarantined; {known_when}")
    _doubt(checked, device, is_known=is_known)


@app.command()
def release(
    device: DeviceArgument, config: ConfigOption = Path(FED), *, broker: BrokerOption = None
) -> None:
    """Admit a device again that was quarantined or cut off. Its sheet is clean then."""
    checked = load_config(config)
    with _decrees(checked) as decrees:
        sheet = decrees.sheet(device)
        if sheet is None or sheet.standing is Standing.ADMITTED:
            typer.echo(f"{device} is not kept out")
            return
        _refuse_revoked(decrees, device)
        decrees.decree(StandingRecord(device, Standing.ADMITTED))
    folder = broker or _beside(config, *_BROKER)
    if folder is not None:
        from broker_config.revoke import allow_device  # noqa: PLC0415 - as below

        allow_device(folder, device)
    typer.echo(f"{device} is admitted; {_soon(checked)}")


@app.command("revoke")
def revoke_(
    device: DeviceArgument,
    config: ConfigOption = Path(FED),
    *,
    reason: ReasonOption = "",
    enrolment: Annotated[
        Path | None,
        typer.Option(
            help="The enrolment's folder; without it, the one beside the TOML file. Takes the"
            " device's certificates back, and deletes its keys, tokens and what was to be carried.",
            show_default=False,
        ),
    ] = None,
    broker: BrokerOption = None,
) -> None:
    """Take nothing of a device any more, here and at the broker. For good: its name, too.

    Folders of `fedbus init` beside the settings are found by themselves. What was deleted is
    listed, and what is still to be done.
    """
    checked = load_config(config)
    account_names([device])
    known_when = _known_when(checked)
    with _decrees(checked) as decrees:
        is_known = decrees.sheet(device) is not None
        decrees.decree(StandingRecord(device, Standing.REVOKED, _by_operator(reason), is_cut=True))
    typer.echo(f"{device} is revoked; {known_when}")
    _doubt(checked, device, is_known=is_known)
    enrolment = enrolment or _beside(config, "enrolment", CA)
    for line in _shut_out(device, enrolment, broker or _beside(config, *_BROKER)):
        typer.echo(line)
    if (roster := _roster_of(checked, device)) is not None:
        typer.echo(
            f"cohort {roster.cohort!r} goes on without it from the next roster, and may wait for"
            " its answers until then:"
        )
        num_left = len(roster.members) - 1
        num_after = max(num_left, MIN_COHORT)
        is_fewer = num_after < roster.parameters.max_contributors
        for step in next_roster(
            str(config),
            str(enrolment or "DIR"),
            cohort=roster.cohort,
            remove=[device],
            to_enrol=num_after - num_left,
            goal_at_most=num_after * is_fewer,
        ):
            typer.echo(f"  {step}")


def _shut_out(device: str, enrolment: Path | None, broker: Path | None) -> Iterator[str]:
    """Take the device's ways in, where their folders are here; say what was and is to be done."""
    # X.509 is for those who ask for it: who lists devices waits for none.
    from broker_config.authority import Authority  # noqa: PLC0415
    from broker_config.revoke import deny_device, forget_passwords, revoke  # noqa: PLC0415
    from fedbus.forget import forget  # noqa: PLC0415

    removed: list[Path] = []
    if enrolment is not None:
        done = revoke(Authority.open(enrolment / CA), device, broker)
        yield f"certificates taken back: {done.certificates}"
        removed = [*done.removed, *forget(enrolment, device)]
    elif broker is not None:
        removed = [*forget_passwords(broker, device)]
        deny_device(broker, device)
    yield from (f"deleted {path}" for path in removed)
    if broker is None:
        yield _FOLLOWS.format(device)
        if enrolment is not None:
            yield f"{enrolment / CA / 'crl.pem'}: to the broker's folder; then kill -HUP the broker"
    if enrolment is None:
        yield (
            "its certificate is valid, and its keys lie there still, until `fedbus devices revoke"
            f" {device} --enrolment DIR` where the enrolment is"
        )


def _roster_of(config: AggregatorConfig, device: str) -> "Roster | None":
    """Return the newest roster that has a device; None if there is none."""
    if not (config.secure.enabled and config.secure.rosters and config.identity.enrolment_key):
        return None
    from fedbus.enrolment import newest_rosters  # noqa: PLC0415 - as above

    key = parse_key(config.identity.enrolment_key)
    rosters = newest_rosters(Path(config.secure.rosters), key).values()
    return next((each for each in rosters if each.index(device) is not None), None)


def _beside(config: Path, folder: str, has: str) -> Path | None:
    """Return a folder of `fedbus init` beside the settings, if it is here too."""
    found = config.parent / folder
    return found if (found / has).exists() else None


def _doubt(config: AggregatorConfig, device: str, *, is_known: bool) -> None:
    """Say so if nobody of that name was ever there: it may be a slip of the pen."""
    if not is_known and _roster_of(config, device) is None:
        typer.echo(f"note: {device} was never heard of in task {config.task.task}; right name?")


@contextmanager
def _decrees(config: AggregatorConfig) -> Iterator[Decrees]:
    with open_decrees(Path(config.state_dir), config.task.task, config.database or None) as opened:
        yield opened


def _refuse_revoked(decrees: Decrees, device: str) -> None:
    check_id(device, "device")
    sheet = decrees.sheet(device)
    if sheet is not None and sheet.standing is Standing.REVOKED:
        raise ConfigError(f"{device} is revoked, for good: enrol it anew under another name")


def _by_operator(reason: str) -> str:
    return f"by the operator: {reason}" if reason else "by the operator"


def _soon(config: AggregatorConfig) -> str:
    return f"a running aggregator knows within {config.monitor_s:g} s"


def _known_when(config: AggregatorConfig) -> str:
    """Say when the aggregator will know; one that never ran here finds its store made, and in it.

    So nobody has to be let in first. Where the operator's settings are a copy, that is told.
    """
    try:
        with _decrees(config):
            return _soon(config)
    except NoStoreError:
        pass
    from aggregator.store import open_store  # noqa: PLC0415 - opened once in a task's life

    open_store(Path(config.state_dir), config.task.task, config.database or None).close()
    where = "its database" if config.database else config.state_dir
    return (
        f"no aggregator ran with {where} yet: it knows from its first start on; if it runs"
        " elsewhere, say this there, too"
    )


def _is_suspect(sheet: Sheet) -> bool:
    return sheet.standing is not Standing.ADMITTED or sheet.score > 0


def _why(sheet: Sheet) -> str:
    if sheet.reason:
        return sheet.reason
    weighty = [each for each in sheet.evidence if each.points > 0]
    return ", ".join(f"{each.kind} x{each.count}" for each in weighty[:3])
