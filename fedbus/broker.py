"""``fedbus broker``: a broker that serves a federation, with accounts and access rules."""

import ipaddress
from pathlib import Path
from typing import Annotated, Final

import typer

from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.files import BrokerFiles
from broker_config.mosquitto import prefix_of
from broker_config.programs import Engine
from broker_config.running import Broker, serve, serve_secure
from fedbus.broker_files import config
from fedbus.denials import start_following
from fedbus.tokens import Desk
from fedbus.workplace import Workplace
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX

app = typer.Typer(help="Run an MQTT broker for a federation.", no_args_is_help=True)

#: mosquitto 2.0 says so at every start and reload, and has no other way to name all devices.
_PATTERNS: Final = (
    "its warnings of ACL patterns without %u are expected: those topics are for every device"
)

app.command()(config)


@app.command()
def up(
    federation: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="What `fedbus init` made, or its broker/ alone; without it, the folder here.",
            show_default=False,
        ),
    ] = None,
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Without TLS: where accounts and data are kept.")
    ] = Path("fedbus-broker"),
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Without TLS: TCP port.")] = 1883,
    host: Annotated[
        str, typer.Option(help="Without TLS: address to listen on, of this machine alone.")
    ] = "127.0.0.1",
    device: Annotated[
        list[str] | None,
        typer.Option(help="Without TLS: a device that gets an account; repeat for more."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Without TLS: what stands before every topic.")
    ] = DEFAULT_PREFIX,
    broker: Annotated[
        Engine,
        typer.Option(help="Without TLS, which; auto: mosquitto if there is one, else amqtt."),
    ] = "auto",
) -> None:
    """Run a broker in the foreground until Ctrl-C.

    In a folder of `fedbus init` that is mosquitto with TLS, as its broker/mosquitto.conf says.
    Elsewhere it is a broker to try things out: on loopback, without TLS; accounts that are missing
    are made first, and each one's password lies alone in a file (`broker.password_file`).
    """
    secure = _secure_folder(federation)
    if secure is not None:
        Desk(Workplace(secure.absolute().parent)).tidy()  # if that is an enrolment's, too
        raise _ended(serve_secure(secure, _say_secure))
    if not _is_loopback(host):
        raise ConfigError(
            f"--host {host}: nothing would be encrypted there; `fedbus init --host {host}` makes a"
            " broker with TLS"
        )

    def say(running: Broker) -> None:
        typer.echo(f"{running.name} listens on {running.host}:{running.port}, without TLS")
        if running.embedded:
            typer.echo('for trying things out; clients need: broker.protocol = "3.1.1"')
        else:
            typer.echo(_PATTERNS)
        typer.echo(f"passwords: {running.files.secret(AGGREGATOR).parent}/<account>")
        typer.echo(f"accounts:  {', '.join([AGGREGATOR, MONITOR, *(device or [])])}")
        start_following(running, typer.echo, prefix)

    status = serve(
        directory, port, host, devices=device or [], engine=broker, prefix=prefix, on_start=say
    )
    raise _ended(status)


def _ended(status: int) -> typer.Exit:
    if status:
        typer.echo(f"the broker ended with status {status}: its log above may say why", err=True)
    return typer.Exit(status)


def _secure_folder(federation: Path | None) -> Path | None:
    """Return the folder of a broker with TLS; None if no federation was named and none is here."""
    place = federation or Path()
    for folder in (place, Workplace(place).broker):
        if BrokerFiles(folder).has_tls and BrokerFiles(folder).config.exists():
            return folder
    if federation is not None:
        raise ConfigError(f"{federation}: no broker of `fedbus init` is there")
    return None


def _say_secure(running: Broker) -> None:
    typer.echo(f"{running.name} listens on {running.host}:{running.port}, with TLS")
    typer.echo(f"settings: {running.files.config}; after a change there, start it again")
    typer.echo(_PATTERNS)
    prefix = prefix_of(running.files.acl.read_text(encoding="utf-8"))
    start_following(running, typer.echo, prefix)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
