"""The command line as one Typer application, built anew for each call. New commands: `commands`."""

import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from fedbus.commands import COMMANDS
from fedbus.early import leaving_at_once
from protocol.errors import ConfigError

_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    What a person can mend (a setting, a file, a broker that is not there) ends in one sentence on
    standard error and status 2.
    """
    try:
        with leaving_at_once():
            words = _spelled_out(list(sys.argv[1:] if argv is None else argv))
            application = command_line(words)
        application(args=words, prog_name="fedbus")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ConfigError as error:
        return _say(error)
    except _further_errors() as error:
        return _say(error)
    return 0


def command_line(words: Sequence[str]) -> typer.Typer:
    """Return the application for these words: it can run what they call, and names the rest.

    Before the command there are flags only, so that the first word without a dash is the command.
    """
    app = typer.Typer(
        name="fedbus",
        help="Federated learning over the MQTT broker that people already run.",
        context_settings=_SETTINGS,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_options)
    called = next((word for word in words if not word.startswith("-")), "")
    for command in COMMANDS:
        if command.name == called:
            command.add_to(app)
        else:
            command.mention_in(app)
    return app


def _spelled_out(words: list[str]) -> list[str]:
    if words[:1] != ["enrol"]:
        return words
    from fedbus.enrol import spell_out  # noqa: PLC0415 - imports as much as all others together

    return spell_out(words)


def _say(error: Exception) -> int:
    sys.stderr.write(f"fedbus: {error}\n")
    return 2


def _further_errors() -> tuple[type[Exception], ...]:
    """Python asks for it once something was raised: whoever raised one of these has imported it."""
    from aggregator.store_errors import StoreError  # noqa: PLC0415
    from broker_config.programs import BrokerError  # noqa: PLC0415

    return StoreError, BrokerError


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the flag
    if wanted:
        from importlib import metadata  # noqa: PLC0415 - for this flag alone

        sys.stdout.write(f"fedbus {metadata.version('fedbus')}\n")
        raise typer.Exit


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
