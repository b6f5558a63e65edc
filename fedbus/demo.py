"""``fedbus demo``: a whole federation on this machine, from nothing to an accurate model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from aggregator.secure_config import SecureConfig
from aggregator.wording import many
from broker_config.programs import Engine
from fedbus.datasets import Dataset, load, split
from fedbus.demonstration import Outcome, demonstrate
from fedbus.early import INTERRUPTED
from fedbus.federation import Recipe
from fedbus.summary import print_summary, result_of, say_where
from fedbus.temporary import temporary_folder
from protocol.errors import ConfigError
from protocol.secagg.parameters import MIN_COHORT, PAIRWISE
from protocol.vectors.packing import parse_codec

DEFAULT_DEVICES: Final = 8
MAX_DEVICES: Final = 64


DevicesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_DEVICES,
        help="Device processes; default 8, or one per client of --data.",
        show_default=False,
    ),
]
ModeOption = Annotated[str, typer.Option(help="buffered (asynchronous) or rounds.")]
CodecOption = Annotated[
    str, typer.Option(help="How updates travel, like dense/float32 or topk-0.01/int8.")
]
SchemeOption = Annotated[
    str,
    typer.Option(
        help="How updates are masked: seedmask, lightsecagg, pairwise (with --mode rounds) or"
        " none (all in sight)."
    ),
]
SupportOption = Annotated[
    str, typer.Option(help="What masked updates contain: dense, randk-F or plan-F.")
]
AlphaOption = Annotated[
    float, typer.Option(help="Dirichlet parameter; small: each device sees few labels.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Decides who holds which rows.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="An .npz with x, y and perhaps client (a row's owner).")
]
TargetOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Accuracy on held-out rows to be reached.")
]
TimeoutOption = Annotated[float, typer.Option(min=1.0, help="Seconds after which it gives up.")]
BrokerOption = Annotated[
    Engine, typer.Option(help="auto: mosquitto if it is installed, else amqtt.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Write the figures here.")
]
KeepOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Work in this new folder, and leave it there."),
]


def demo(
    *,
    devices: DevicesOption = None,
    mode: ModeOption = "buffered",
    codec: CodecOption = "topk-0.05/int4",
    scheme: SchemeOption = "seedmask",
    support: SupportOption = "dense",
    alpha: AlphaOption = 0.3,
    seed: SeedOption = 0,
    data: DataOption = None,
    target: TargetOption = 0.93,
    timeout: TimeoutOption = 60.0,
    broker: BrokerOption = "auto",
    json_file: JsonOption = None,
    keep: KeepOption = None,
) -> None:
    """Train one model on real data, on devices that share none of it.

    Starts a broker, an aggregator and device processes; shows what happens until the target
    accuracy is reached; ends all of them. Exit status 0 only if it was reached.

    With --data, rows of one client stay on one device; with fewer devices than clients, the
    largest clients are dealt first, each to the device with the fewest rows. A fifth of all rows
    is held out for the aggregator and never reaches a device.
    """
    _check(mode, codec, scheme, support, json_file)
    console = Console()
    recipe = Recipe(
        mode=mode, codec=codec, seed=seed, engine=broker, scheme=scheme, support=support
    )
    dataset = load(data)
    num_devices = _num_devices(devices, recipe, dataset)
    parts = split(dataset, devices=num_devices, alpha=alpha, seed=seed)
    with _folder(keep) as folder:
        outcome = demonstrate(
            folder, recipe, dataset, parts, target=target, timeout_s=timeout, console=console
        )
    result = result_of(outcome, recipe, dataset=dataset, devices=num_devices, alpha=alpha)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_summary(console, outcome, len(parts.held_out.y), result)
    if keep is not None:
        say_where(console, keep)
    raise typer.Exit(_exit_status(outcome))


def _exit_status(outcome: Outcome) -> int:
    if outcome.interrupted:
        return INTERRUPTED
    return 0 if outcome.reached else 1


def _check(mode: str, codec: str, scheme: str, support: str, json_file: Path | None) -> None:
    """Refuse now what would be refused only after everything has started, or ended."""
    if mode not in {"buffered", "rounds"}:
        raise ConfigError(f"--mode {mode!r}: use buffered or rounds")
    parse_codec(codec)
    SecureConfig(scheme=scheme, support=support)
    if scheme == PAIRWISE and mode != "rounds":
        raise ConfigError("--scheme pairwise works in rounds only: add --mode rounds")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ConfigError(f"--json {json_file}: there is no folder {json_file.absolute().parent}")


def _num_devices(devices: int | None, recipe: Recipe, dataset: Dataset) -> int:
    """Return how many devices there are to be. Raises ConfigError for too few."""
    num_devices = devices or _default_devices(dataset)
    if recipe.secure and num_devices < MIN_COHORT:
        raise ConfigError(
            f"{many(num_devices, 'device')}: a sum hides nobody among fewer than {MIN_COHORT};"
            " take more --devices, or --scheme none"
        )
    return num_devices


def _default_devices(dataset: Dataset) -> int:
    if not dataset.num_owners:
        return DEFAULT_DEVICES
    if dataset.num_owners > MAX_DEVICES:
        raise ConfigError(f"{dataset.num_owners} clients: say onto how many --devices to deal them")
    return dataset.num_owners


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with temporary_folder("fedbus-demo-") as folder:
            yield folder
        return
    try:
        keep.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigError(f"--keep {keep}: {error.strerror}; name a new folder") from None
    yield keep.absolute()
