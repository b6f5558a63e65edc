"""``fedbus init``: commented sample configurations."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from protocol.errors import ConfigError

SAMPLES: Final = ("fed.toml", "device.toml")


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write.")] = Path(),
) -> None:
    """Write commented sample configurations, fed.toml and device.toml; overwrite nothing."""
    for name in SAMPLES:
        if (directory / name).exists():
            raise ConfigError(f"{directory / name} exists: move it away, or name another folder")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in SAMPLES:
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(sample(name))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    fed, device = (directory / name for name in SAMPLES)
    typer.echo(f"wrote {fed}     the aggregator's: fedbus aggregator check --config {fed}")
    typer.echo(f"wrote {device}  a device's:       fedbus-device check --config {device}")
    typer.echo(f"next: fedbus enrol new enrolment --config {fed} --device ID --device ID ...")


def sample(name: str) -> str:
    """Return the text of one of `SAMPLES`."""
    return resources.files("fedbus.samples").joinpath(name).read_text(encoding="utf-8")
