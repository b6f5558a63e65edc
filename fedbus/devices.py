"""``fedbus devices``: who takes part, what speaks against whom, and who is kept out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from aggregator.config import AggregatorConfig, load_config
from aggregator.decrees import Decrees, Sheet, meaning, open_decrees
from aggregator.records import Standing, StandingRecord
from aggregator.store_errors import NoStoreError
from aggregator.wording import many
from broker_config.accounts import account_names
from fedbus.known import CA, TOKENS, enrolled, with_token
from protocol.errors import ConfigError
from protocol.topics import check_id

app = typer.Typer(help="See, quarantine, release and revoke devices.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The aggregator's settings: they name the store.")
]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever looks later.")]
UnknownOption = Annotated[
    bool, typer.Option("--unknown", help="Also if nobody here has ever heard of the name.")
]
BrokerOption = Annotated[
    Path | None,
    typer.Option(
        "--broker",
        help="The folder of the broker, if it runs on this machine; without it, the one beside the"
        " TOML file.",
        show_default=False,
    ),
]

_ENROLMENT: Final = "enrolment"
_ENROLLED: Final = "enrolled"
#: The broker's folder of `fedbus init`, and what is in it.
_BROKER: Final = ("broker", "acl")
#: The settings, where nothing else is said.
FED: Final = "fed.toml"


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
    _tidy(config)
    unheard = enrolled(config.parent / _ENROLMENT)
    sheets = _sheets(checked, or_none=bool(unheard))
    unheard -= {sheet.device for sheet in sheets}
    shown = [sheet for sheet in sheets if not suspects or _is_suspect(sheet)]
    rows = [(each.device, each.standing.value, f"{each.score:.1f}", _why(each)) for each in shown]
    rows += [(name, _ENROLLED, "", "not heard of yet") for name in unheard if not suspects]
    if not rows:
        known = many(len(sheets) + len(unheard), "device")
        typer.echo(f"nothing speaks against {known}" if sheets or unheard else "no devices")
        return
    width = max(len("device"), *(len(device) for device, *_ in rows))
    for device, standing, score, why in [("device", "standing", "score", "why"), *sorted(rows)]:
        typer.echo(f"{device:<{width}}  {standing:<11}  {score:>5}  {why}".rstrip())


@app.command()
def show(device: DeviceArgument, config: ConfigOption = Path(FED)) -> None:
    """Show what is held against a device, and why. Exit status 1 if it was never heard of."""
    checked = load_config(config)
    _tidy(config)
    is_enrolled = device in enrolled(config.parent / _ENROLMENT)
    found = _sheets(checked, or_none=is_enrolled)
    sheet = next((each for each in found if each.device == device), None)
    if sheet is None and is_enrolled:
        typer.echo(f"{device}: {_ENROLLED}, not heard of in task {checked.task.task} yet")
        return
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
    device: DeviceArgument,
    config: ConfigOption = Path(FED),
    *,
    reason: ReasonOption = "",
    unknown: UnknownOption = False,
) -> None:
    """Refuse a device's updates until it is released. What was taken already stays."""
    checked = load_config(config)
    account_names([device])
    _tidy(config)
    if not unknown:
        _refuse_unknown(config, checked, device)
    known_when = _known_when(checked)
    with _decrees(checked) as decrees:
        _refuse_revoked(decrees, device)
        decrees.decree(StandingRecord(device, Standing.QUARANTINED, _by_operator(reason)))
    typer.echo(f"{device} is quarantined; {known_when}")


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
    unknown: UnknownOption = False,
) -> None:
    """Take nothing of a device any more, here and at the broker. For good: its name, too.

    Folders of `fedbus init` beside the settings are found by themselves. What was deleted is
    listed, and what is still to be done: exit status 1 if something failed.
    """
    # X.509 is for those who ask for it: who lists devices waits for none.
    from fedbus.revocation import Outcome, check_folders, next_steps, shut_out  # noqa: PLC0415

    checked = load_config(config)
    account_names([device])
    check_folders(enrolment, broker)
    enrolment = enrolment or _beside(config, _ENROLMENT, CA)
    broker = broker or _beside(config, *_BROKER)
    _tidy(config)
    if not unknown:
        _refuse_unknown(config, checked, device, enrolment, broker)
    outcome = Outcome()
    outcome.attempt(lambda: _revoked(checked, device, reason), "the aggregator was not told")
    shut_out(outcome, device, enrolment, broker)
    outcome.attempt(lambda: next_steps(config, checked, device, enrolment), "the next roster")
    for line in outcome.lines:
        typer.echo(line)
    if outcome.undone:
        typer.echo(f"NOT done: mend this, and revoke {device} again", err=True)
        for line in outcome.undone:
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1)


def _revoked(config: AggregatorConfig, device: str, reason: str) -> list[str]:
    known_when = _known_when(config)
    with _decrees(config) as decrees:
        decrees.decree(StandingRecord(device, Standing.REVOKED, _by_operator(reason), is_cut=True))
    return [f"{device} is revoked; {known_when}"]


def _beside(config: Path, folder: str, has: str) -> Path | None:
    """Return a folder of `fedbus init` beside the settings, if it is here too."""
    found = config.parent / folder
    return found if (found / has).exists() else None


def _refuse_unknown(
    config: Path,
    checked: AggregatorConfig,
    device: str,
    enrolment: Path | None = None,
    broker: Path | None = None,
) -> None:
    """Raise Exit(1) for a name that nobody ever had: it may be a slip of the pen."""
    from fedbus.revocation import roster_of  # noqa: PLC0415 - as above

    enrolment = enrolment or config.parent / _ENROLMENT
    if device in enrolled(enrolment) | with_token(enrolment):
        return
    broker = broker or _beside(config, *_BROKER)
    if broker is not None and device in _accounts(broker):
        return
    heard_of = {each.device for each in _sheets(checked, or_none=True)}
    if device in heard_of or roster_of(checked, device) is not None:
        return
    typer.echo(
        f"{device}: was never heard of in task {checked.task.task}, and is not enrolled here;"
        " nothing was done. Is the name right? If it is, say so: --unknown"
    )
    raise typer.Exit(1)


def _accounts(broker: Path) -> set[str]:
    from broker_config.files import BrokerFiles, read_entries  # noqa: PLC0415 - as above

    return set(read_entries(BrokerFiles(broker).passwords))


def _tidy(config: Path) -> None:
    """Take away what is left of tokens that are over; who looks at devices is not kept from it."""
    if not any((config.parent / _ENROLMENT / TOKENS).glob("*.json")):
        return
    from fedbus.tokens import Desk  # noqa: PLC0415 - as above
    from fedbus.workplace import Workplace  # noqa: PLC0415 - as above

    try:
        Desk(Workplace(config.parent)).tidy()
    except ConfigError as error:
        typer.echo(f"accounts of tokens that are over stay: {error}", err=True)


def _sheets(config: AggregatorConfig, *, or_none: bool) -> list[Sheet]:
    """Return what the store has; ``or_none``: nothing, before the aggregator's first start."""
    try:
        with _decrees(config) as decrees:
            return decrees.sheets()
    except NoStoreError:
        if or_none:
            return []
        raise


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
