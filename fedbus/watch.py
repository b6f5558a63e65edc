"""``fedbus watch`` and ``fedbus status``: a running task, seen through its monitoring topics."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from broker_config.accounts import MONITOR
from fedbus.listener import Listener, Unreachable
from fedbus.status import status_lines
from fedbus.tls_options import CaOption, CertificateOption, KeyOption, tls_of
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX
from transport.settings import Tls

#: A task that has just begun has not said everything yet: no need to wait for long.
COMPLETE_S: Final = 2.0

TaskOption = Annotated[str, typer.Option("--task", "-t", help="The task to look at.")]
HostOption = Annotated[str, typer.Option(help="The broker's address.")]
PortOption = Annotated[int, typer.Option(min=1, max=65_535, help="The broker's port.")]
PrefixOption = Annotated[str, typer.Option(help="What stands before every topic.")]
NameOption = Annotated[
    str, typer.Option(help="The broker account; `monitor` where a password is given.")
]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="A file with the password alone.")
]
ProtocolOption = Annotated[
    Literal["auto", "5", "3.1.1"],
    typer.Option(help="MQTT version; 3.1.1 for a broker that leaves MQTT 5 without an answer."),
]
FederationOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help="What `fedbus init` made: task and broker by its fed.toml, in as the monitor.",
    ),
]
DeadlineOption = Annotated[
    float, typer.Option(min=0.1, help="Seconds to wait for the broker and the task.")
]


def watch(
    task: TaskOption = "",
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    prefix: PrefixOption = DEFAULT_PREFIX,
    username: NameOption = "",
    password_file: PasswordOption = None,
    protocol: ProtocolOption = "auto",
    ca_file: CaOption = None,
    certificate_file: CertificateOption = None,
    key_file: KeyOption = None,
    federation: FederationOption = None,
    deadline: DeadlineOption = 10.0,
) -> None:
    """Show a running task, live, until Ctrl-C."""
    from fedbus.live_task import show  # noqa: PLC0415 - the status needs no pictures

    listener = _listener(
        federation,
        host=host,
        port=port,
        prefix=prefix,
        task=task,
        username=username,
        password_file=password_file,
        protocol=protocol,
        tls=tls_of(ca_file, certificate_file, key_file),
    )
    with suppress(KeyboardInterrupt), listener:
        _await(listener, deadline)
        show(listener, federation)


def status(
    task: TaskOption = "",
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = 1883,
    prefix: PrefixOption = DEFAULT_PREFIX,
    username: NameOption = "",
    password_file: PasswordOption = None,
    protocol: ProtocolOption = "auto",
    ca_file: CaOption = None,
    certificate_file: CertificateOption = None,
    key_file: KeyOption = None,
    federation: FederationOption = None,
    deadline: DeadlineOption = 5.0,
) -> None:
    """Say what a task is waiting for and why. Exit status 0 if its aggregator is online, else 1."""
    listener = _listener(
        federation,
        host=host,
        port=port,
        prefix=prefix,
        task=task,
        username=username,
        password_file=password_file,
        protocol=protocol,
        tls=tls_of(ca_file, certificate_file, key_file),
    )
    with listener:
        _await(listener, deadline)
        for line in status_lines(listener.view, federation):
            typer.echo(line)
        raise typer.Exit(0 if listener.view.online else 1)


def _listener(
    federation: Path | None,
    *,
    host: str,
    port: int,
    prefix: str,
    task: str,
    username: str,
    password_file: Path | None,
    protocol: str,
    tls: Tls | None,
) -> Listener:
    """Return a listener to what the options name, or to the federation of a folder."""
    if federation is not None:
        from aggregator.config import load_config  # noqa: PLC0415 - takes longer than the rest
        from fedbus.workplace import CA_CERTIFICATE, Workplace  # noqa: PLC0415

        place = Workplace(federation)
        config = load_config(place.fed)
        host, port, prefix = config.broker.host, config.broker.port, config.task.prefix
        task = task or config.task.task
        tls = Tls(place.ca / CA_CERTIFICATE, *place.service(MONITOR))
    if not task:
        raise ConfigError("say which: --task, or --dir with a folder of `fedbus init`")
    return Listener(
        host=host,
        port=port,
        prefix=prefix,
        task=task,
        username=username,
        password_file=password_file,
        protocol=protocol,
        tls=tls,
    )


def _await(listener: Listener, deadline_s: float) -> None:
    """Hear the task, and then what else the broker has retained of it."""
    try:
        listener.await_task(deadline_s)
    except Unreachable as error:
        sys.stderr.write(f"fedbus: {error}\n")
        raise typer.Exit(1) from None
    listener.listen_until(lambda: listener.view.complete, min(deadline_s, COMPLETE_S))
