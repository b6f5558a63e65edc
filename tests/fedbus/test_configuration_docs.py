"""docs/configuration.md has every key of both files, with its default, and no other."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from aggregator.config import FILES, FLEET_TABLES, AggregatorConfig
from aggregator.task_config import _STRATEGIES
from device_sdk.config import FILES as DEVICES_FILES
from device_sdk.config import DeviceConfig
from device_sdk.engine.layers import LAYERS
from device_sdk.engine.losses import LOSSES
from device_sdk.engine.training import TrainingSettings

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
REQUIRED = "required"
DEVICES_OWN = "device: "


def sections(unit: str = "[^|]*") -> dict[str, dict[str, str]]:
    """Heading -> key -> default as written; of the keys with a unit like ``unit``."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        heading = re.match(r"`\[?([a-z._]+)\]?`\n", part)
        if heading is not None:
            rows = re.findall(rf"^\| `(\w+)` \| ([^|]+) \| ?{unit} ?\|[^|]+\|$", part, re.MULTILINE)
            again = f"{DEVICES_OWN}{heading[1]}"  # a table of both files, with keys of its own
            found[again if heading[1] in found else heading[1]] = dict(rows)
    return found


def settings(cls: Any, name: str) -> dict[str, Any]:
    """Section -> the dataclass whose keys it has, nested ones included."""
    found = {name: cls}
    path = "" if name.endswith(".toml") else f"{name}."
    for key, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= settings(hint, f"{path}{key}")
    return found


def in_file(name: str) -> str:
    """A section as it is called in the file: those of a fleet stand at the top."""
    top = name.removeprefix("task.")
    return top if top.split(".")[0] in FLEET_TABLES else name


AGGREGATORS = {in_file(name): cls for name, cls in settings(AggregatorConfig, "fed.toml").items()}
SETTINGS = {
    **AGGREGATORS,
    **{
        name if AGGREGATORS.get(name, cls) is cls else f"{DEVICES_OWN}{name}": cls
        for name, cls in settings(DeviceConfig, "device.toml").items()
    },
    "task.training": TrainingSettings,
}


def plain_fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """The keys that stand in a section of their own class, not in tables with sections."""
    hints = get_type_hints(cls)
    tables = {"model", "training"}
    return {
        field.name: field
        for field in dataclasses.fields(cls)
        if not dataclasses.is_dataclass(hints[field.name])
        and (field.name not in tables or hints[field.name] is str)
    }


def test_every_path_is_looked_for_beside_its_file() -> None:
    paths = {
        f"{section}.{key}".removeprefix("fed.toml.").removeprefix("device.toml.")
        for section, cells in sections("path").items()
        for key in cells
    }
    assert {path.removeprefix(DEVICES_OWN) for path in paths} == {*FILES, *DEVICES_FILES}


def test_every_section_is_documented_and_no_other() -> None:
    assert sections().keys() == SETTINGS.keys() | {"task.model"}


@pytest.mark.parametrize("section", SETTINGS)
def test_every_key_is_documented_and_no_other(section: str) -> None:
    assert sections()[section].keys() == plain_fields(SETTINGS[section]).keys()


@pytest.mark.parametrize("section", SETTINGS)
def test_defaults_are_the_documented_ones(section: str) -> None:
    for key, field in plain_fields(SETTINGS[section]).items():
        written = sections()[section][key]
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        if default is dataclasses.MISSING:
            assert written == REQUIRED, key
        elif default is None:
            assert written == "none", key
        else:
            value = tomllib.loads(f"it = {written.strip('`')}")["it"]
            default = list(default) if isinstance(default, tuple) else default
            assert value == default, key
            assert type(value) is type(default), key


def test_the_model_table_and_its_layers_and_losses_are_documented() -> None:
    assert sections()["task.model"].keys() == {"input", "layers", "loss"}
    listed = PAGE[PAGE.index("A layer is one of") : PAGE.index("### `[task.training]`")]
    assert set(re.findall(r"^\| `(\w+)` \|", listed, re.MULTILINE)) == LAYERS.keys()
    assert all(f"`{loss}`" in PAGE for loss in LOSSES)
    for word, layer in LAYERS.items():
        row = next(line for line in listed.splitlines() if line.startswith(f"| `{word}`"))
        for field in dataclasses.fields(layer):  # type: ignore[arg-type] # every layer is one
            assert f"`{field.name}`" in row


def test_every_strategy_is_documented_with_its_options() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`\w+` = `[\d.]+`.*) \|$", PAGE, re.MULTILINE))
    written = {
        name: {key: float(value) for key, value in re.findall(r"`(\w+)` = `([\d.]+)`", options)}
        for name, options in rows.items()
    }
    assert written == {name: factory.__kwdefaults__ for name, factory in _STRATEGIES.items()}
