"""``fedbus broker config``: configurations of other brokers, with the access rules of fedbus."""

import os
from pathlib import Path
from typing import Annotated

import typer

from broker_config.authority import Authority
from broker_config.others.choice import RECIPES, Name
from broker_config.others.wanted import Wanted
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX


def config(
    *,
    name: Annotated[Name, typer.Option("--for", help="Which broker.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; without it, fedbus-NAME.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A device that the rules name; repeat for more.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What stands before every topic.")] = DEFAULT_PREFIX,
    task: Annotated[str, typer.Option(help="Rules for one task; +: for every one.")] = "+",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where it listens.")] = 8883,
    gateway: Annotated[
        str, typer.Option(help="For a bridge: the account of the site's broker.")
    ] = "gateway-1",
    authority: Annotated[
        Path | None,
        typer.Option(help="For a bridge: enrolment/ca, to give the gateway a certificate."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="For a bridge: where the broker in the middle is.")
    ] = "broker.example",
) -> None:
    """Write the configuration of another broker; overwrite nothing.

    The access rules are made from the ones that devices and the aggregator go by. `fedbus doctor`
    says whether the broker does what they say.
    """
    recipe = RECIPES[name]
    wanted = Wanted(
        devices=tuple(device or ()), prefix=prefix, task=task, port=port, gateway=gateway, host=host
    )
    folder = out or Path(f"fedbus-{name}")
    files = {**recipe.files(wanted), **_certificates(name, gateway, authority)}
    try:
        folder.mkdir(mode=0o700, parents=True)
        for file, text in files.items():
            _write(folder / file, text)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; name a new folder: --out") from None
    for file in files:
        typer.echo(f"wrote {folder / file}")
    typer.echo(f"next: {recipe.next_step}")
    typer.echo("then: fedbus doctor --config fed.toml --device device.toml")


def _certificates(name: Name, gateway: str, folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    if name != "bridge":
        raise ConfigError("--authority: for a bridge; `fedbus init` made the broker's certificate")
    authority = Authority.open(folder)
    issued = authority.issue_client(gateway)
    return {
        "ca.crt": authority.certificate_pem.decode(),
        f"{gateway}.crt": issued.certificate.decode(),
        f"{gateway}.key": issued.key.decode(),
    }


def _write(path: Path, text: str) -> None:
    """Some of the files hold passwords, or hashes of them: readable by their owner alone."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode())
