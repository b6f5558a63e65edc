"""All command groups as one Typer application. A new group is a module and a line here."""

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Final

import typer

from aggregator.store_errors import StoreError
from broker_config.programs import BrokerError
from fedbus import (
    aggregator,
    broker,
    ca,
    demo,
    devices,
    doctor,
    enrol,
    export,
    flash,
    init,
    load,
    model,
    simulate,
    watch,
)
from fedbus.audit import command as audit
from protocol.errors import ConfigError

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="fedbus",
    help="Federated learning over the MQTT broker that people already run.",
    context_settings=_SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("demo")(demo.demo)
app.command("audit")(audit.audit)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.command("watch")(watch.watch)
app.command("status")(watch.status)
app.command("export")(export.export)
app.command("load")(load.load)
app.command("simulate")(simulate.simulate)
app.add_typer(aggregator.app, name="aggregator")
app.add_typer(broker.app, name="broker")
app.add_typer(devices.app, name="devices")
app.add_typer(ca.app, name="ca")
app.add_typer(enrol.app, name="enrol")
app.add_typer(model.app, name="model")
flash.register(app)


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    What a person can mend (a setting, a file, a broker that is not there) ends in one sentence on
    standard error and status 2.
    """
    try:
        app(args=enrol.spell_out(sys.argv[1:] if argv is None else argv), prog_name="fedbus")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (ConfigError, StoreError, BrokerError) as error:
        sys.stderr.write(f"fedbus: {error}\n")
        return 2
    return 0


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the flag
    if wanted:
        sys.stdout.write(f"fedbus {metadata.version('fedbus')}\n")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Stand before every command."""
