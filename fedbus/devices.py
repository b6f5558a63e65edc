"""``fedbus devices``: who takes part, what speaks against whom, and who is kept out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from aggregator.config import AggregatorConfig, load_config
from aggregator.decrees import Decrees, Sheet, meaning, open_decrees
from aggregator.records import Standing, StandingRecord
from protocol.errors import ConfigError
from protocol.topics import check_id

app = typer.Typer(help="See, quarantine, release and revoke devices.", no_args_is_help=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The aggregator's TOML file: it names the store.")
]
DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever looks later.")]
BrokerOption = Annotated[
    Path | None,
    typer.Option("--broker", help="The folder of the broker, if it runs on this machine."),
]

#: Where an enrolment keeps its authority.
CA: Final = "ca"
#: What a broker elsewhere is told.
_FOLLOWS: Final = "a broker run by `fedbus broker up` follows mon/denied by itself"


@app.command("list")
def list_(
    config: ConfigOption,
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
        typer.echo("no devices" if not sheets else f"nothing speaks against {len(sheets)} devices")
        return
    width = max(len("device"), *(len(sheet.device) for sheet in shown))
    typer.echo(f"{'device':<{width}}  {'standing':<11}  {'score':>5}  why")
    for sheet in shown:
        typer.echo(
            f"{sheet.device:<{width}}  {sheet.standing.value:<11}  {sheet.score:>5.1f}  "
            f"{_why(sheet)}".rstrip()
        )


@app.command()
def show(config: ConfigOption, device: DeviceArgument) -> None:
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
def quarantine(config: ConfigOption, device: DeviceArgument, *, reason: ReasonOption = "") -> None:
    """Refuse a device's updates until it is released. What was taken already stays."""
    checked = load_config(config)
    told = _by_operator(reason)
    with _decrees(checked) as decrees:
        _refuse_revoked(decrees, device)
        is_known = decrees.sheet(device) is not None
        decrees.decree(StandingRecord(device, Standing.QUARANTINED, told))
    typer.echo(f"{device} is quarantined; {_when(checked)}")
    _doubt(checked, device, is_known=is_known)


@app.command()
def release(config: ConfigOption, device: DeviceArgument, *, broker: BrokerOption = None) -> None:
    """Admit a device again that was quarantined or cut off. Its sheet is clean then."""
    checked = load_config(config)
    with _decrees(checked) as decrees:
        sheet = decrees.sheet(device)
        if sheet is None or sheet.standing is Standing.ADMITTED:
            typer.echo(f"{device} is not kept out")
            return
        _refuse_revoked(decrees, device)
        decrees.decree(StandingRecord(device, Standing.ADMITTED))
    if broker is not None:
        from broker_config.revoke import allow_device  # noqa: PLC0415 - as below

        allow_device(broker, device)
    typer.echo(f"{device} is admitted; {_when(checked)}")


@app.command("revoke")
def revoke_(
    config: ConfigOption,
    device: DeviceArgument,
    *,
    reason: ReasonOption = "",
    enrolment: Annotated[
        Path | None,
        typer.Option(help="The enrolment's folder, if it is here: takes the certificate back."),
    ] = None,
    broker: BrokerOption = None,
) -> None:
    """Take nothing of a device any more, here and at the broker. For good."""
    checked = load_config(config)
    with _decrees(checked) as decrees:
        is_known = decrees.sheet(device) is not None
        decrees.decree(StandingRecord(device, Standing.REVOKED, _by_operator(reason), is_cut=True))
    typer.echo(f"{device} is revoked; {_when(checked)}")
    _doubt(checked, device, is_known=is_known)
    if checked.secure.enabled:
        typer.echo(
            "its cohort goes on without it from the next roster, and may wait for its answers until"
            f" then: `fedbus enrol collect`, `fedbus enrol next --remove {device}`"
        )
    # X.509 is for those who ask for it: who lists devices waits for none.
    from broker_config.authority import Authority  # noqa: PLC0415
    from broker_config.revoke import deny_device, revoke  # noqa: PLC0415

    if enrolment is not None:
        done = revoke(Authority.open(enrolment / CA), device, broker)
        typer.echo(f"certificates taken back: {done.certificates}")
    elif broker is not None:
        deny_device(broker, device)
    if broker is None:
        typer.echo(_FOLLOWS)
    if enrolment is None:
        typer.echo("its certificate is valid until `fedbus devices revoke --enrolment DIR`")


def _doubt(config: AggregatorConfig, device: str, *, is_known: bool) -> None:
    """Say so if nobody of that name was ever there: it may be a slip of the pen."""
    if not is_known:
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


def _when(config: AggregatorConfig) -> str:
    return f"a running aggregator knows within {config.monitor_s:g} s"


def _is_suspect(sheet: Sheet) -> bool:
    return sheet.standing is not Standing.ADMITTED or sheet.score > 0


def _why(sheet: Sheet) -> str:
    if sheet.reason:
        return sheet.reason
    weighty = [each for each in sheet.evidence if each.points > 0]
    return ", ".join(f"{each.kind} x{each.count}" for each in weighty[:3])
