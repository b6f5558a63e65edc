"""``fedbus broker``: a broker that serves a federation, with accounts and access rules."""

from pathlib import Path
from typing import Annotated

import typer

from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.programs import Engine
from broker_config.running import Broker, serve
from protocol.topics import DEFAULT_PREFIX

app = typer.Typer(help="Run an MQTT broker for a federation.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``up`` a command of its own while it is the only one."""


@app.command()
def up(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where configuration, accounts and data are kept.")
    ] = Path("fedbus-broker"),
    port: Annotated[int, typer.Option(min=1, max=65_535, help="TCP port.")] = 1883,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    device: Annotated[
        list[str] | None, typer.Option(help="A device that gets an account; repeat for more.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What stands before every topic.")] = DEFAULT_PREFIX,
    broker: Annotated[
        Engine, typer.Option(help="Which broker; auto: mosquitto if there is one, else amqtt.")
    ] = "auto",
) -> None:
    """Run a broker in the foreground until Ctrl-C; accounts that are missing are made first.

    Each account's password lies alone in a file: give the aggregator and every device its own as
    `broker.password_file`.
    """

    def say(running: Broker) -> None:
        typer.echo(f"{running.name} listens on {running.host}:{running.port}")
        if running.embedded:
            typer.echo('for trying things out; clients need: broker.protocol = "3.1.1"')
        typer.echo(f"passwords: {running.files.secret(AGGREGATOR).parent}/<account>")
        typer.echo(f"accounts:  {', '.join([AGGREGATOR, MONITOR, *(device or [])])}")

    status = serve(
        directory, port, host, devices=device or [], engine=broker, prefix=prefix, on_start=say
    )
    raise typer.Exit(status)
