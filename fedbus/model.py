"""``fedbus model``: what a model spec costs, before any device has to find out."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from device_sdk.config import parse_bytes
from device_sdk.engine.plan import MemoryPlan, layer_flops, plan_inference, plan_training
from device_sdk.engine.settings import TrainingSettings
from device_sdk.engine.spec import ModelSpec, parse_spec
from device_sdk.engine.specs import named_spec, spec_names
from fedbus.wording import human_bytes
from protocol.errors import ConfigError
from protocol.settings import build

#: A larger file is no description of a model.
MAX_FILE_BYTES: Final = 1 << 20

app = typer.Typer(help="Look at model specs.", no_args_is_help=True)

SpecArgument = Annotated[
    str,
    typer.Argument(
        help="A TOML or JSON file (a spec, or a configuration that has one), or a name that"
        " `fedbus model list` knows."
    ),
]
BudgetOption = Annotated[
    str, typer.Option(help='Memory that a device has for training, such as "32 MiB".')
]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Samples a step, if the file says none.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class Described(NamedTuple):
    """A spec, and how it is to be trained."""

    spec: ModelSpec
    settings: TrainingSettings


@app.command("list")
def list_() -> None:
    """The specs that come with fedbus."""
    for name in spec_names():
        spec = parse_spec(named_spec(name))
        typer.echo(f"{name:<20} input {_shape(spec.input):<14} {spec.layout.size:>8} params")


@app.command()
def show(
    spec: SpecArgument,
    budget: BudgetOption = "",
    batch_size: BatchOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - a flag of the command line
) -> None:
    """Layers, shapes, params, operations, and the memory that training and inference take.

    With --budget: whether it fits, in how many samples at a time; exit status 1 if it does not.
    """
    described = _described(spec, batch_size)
    report = _report(described, parse_bytes(budget) if budget else None)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _say(report)
    if budget and not report["fits"]:
        raise typer.Exit(1)


def _described(name: str, batch_size: int | None) -> Described:
    model, training = _read(name)
    if batch_size is not None:
        training = {**training, "batch_size": batch_size}
    return Described(parse_spec(model), build(TrainingSettings, training, "training"))


def _read(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a model spec and training settings, by a file's path or a shipped spec's name."""
    if name in spec_names():
        return named_spec(name), {}
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{name}: no such file, and none of {', '.join(spec_names())}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"{name}: too large for a model spec")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name}: nested too deep for a model spec") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from None
    table = content.get("task", content) if isinstance(content, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{name}: expected a table of settings")
    training = table.get("training", {})
    alone = {key: value for key, value in table.items() if key != "training"}
    return table.get("model", alone), training if isinstance(training, dict) else {}


def _report(described: Described, budget: int | None) -> dict[str, Any]:
    spec, settings = described
    flops = layer_flops(spec)
    report: dict[str, Any] = {
        "input": list(spec.input),
        "layers": [
            {
                "position": index,
                "type": spec.words[index],
                "name": spec.names[index],
                "output": list(spec.shapes[index + 1]),
                "params": _num_params(spec, index),
                "flops": flops[index],
            }
            for index in range(len(spec.layers))
        ],
        "params": spec.layout.size,
        "flops": sum(flops),
        "batch_size": settings.batch_size,
        "train_bytes": _bytes(plan_training(spec, settings)),
        "infer_bytes": _bytes(plan_inference(spec, 1)),
    }
    return report if budget is None else {**report, **_fit(spec, settings, budget)}


def _fit(spec: ModelSpec, settings: TrainingSettings, budget: int) -> dict[str, Any]:
    try:
        plan = plan_training(spec, settings, budget)
    except ConfigError as error:
        return {"budget": budget, "fits": False, "why": str(error)}
    return {"budget": budget, "fits": True, "micro_batch": plan.rows, "uses": plan.total}


def _bytes(plan: MemoryPlan) -> dict[str, int]:
    parts = {name: value for name, value in plan.parts.items() if value}
    return {"total": plan.total, **parts}


def _num_params(spec: ModelSpec, index: int) -> int:
    return sum(tensor.size for tensor in spec.layers[index].tensors(spec.shapes[index]))


def _say(report: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(_layers(report))
    for what, key in (("train", "train_bytes"), ("infer", "infer_bytes")):
        parts = dict(report[key])
        total = parts.pop("total")
        rows = f"{report['batch_size']} samples" if what == "train" else "1 sample"
        spelled = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items())
        console.print(f"to {what:<6} {human_bytes(total):>8}  {rows} at a time: {spelled}")
    if "fits" in report:
        console.print(_verdict(report))


def _layers(report: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("#", justify="right")
    table.add_column("layer", footer="in all")
    table.add_column("output")
    table.add_column("params", justify="right", footer=f"{report['params']:,}")
    table.add_column("FLOPs a sample", justify="right", footer=f"{report['flops']:,}")
    table.add_row("", "input", _shape(report["input"]), "", "")
    for layer in report["layers"]:
        name = f"{layer['type']} ({layer['name']})" if layer["name"] else layer["type"]
        cells = (f"{number:,}" if number else "" for number in (layer["params"], layer["flops"]))
        table.add_row(str(layer["position"]), name, _shape(layer["output"]), *cells)
    return table


def _verdict(report: Mapping[str, Any]) -> str:
    budget = human_bytes(report["budget"])
    if not report["fits"]:
        return f"does not fit {budget}: {report['why']}"
    batch, rows = report["batch_size"], report["micro_batch"]
    way = "whole batches" if rows == batch else f"batches of {batch} in parts of {rows}"
    return f"fits {budget}: {way}, {human_bytes(report['uses'])}"


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
