"""The page on samples: its example is a trainer that learns from what it was given."""

import re
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_sdk import Assignment, SampleStore

PAGE = (Path(__file__).parents[2] / "docs" / "samples.md").read_text(encoding="utf-8")


def test_the_example_collects_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    exec(compile(code, "docs/samples.md", "exec"), names)  # noqa: S102 - our own page
    trainer = names["Vibration"]()
    assert trainer.num_samples() == 0
    trainer.store.append(np.zeros((40, 128, 9), np.float32), np.arange(40) % 2)
    spec = {
        "input": [128, 9],
        "layers": [{"type": "flatten"}, {"type": "dense", "units": 2}],
        "loss": "softmax_cross_entropy",
    }
    size = 128 * 9 * 2 + 2
    trained = trainer.train(Assignment(np.zeros(size, np.float32), 1, spec, {}, bytes(32)))
    assert trained.num_samples == trainer.num_samples() == 40
    trainer.store.close()


def test_its_settings_are_those_of_the_store() -> None:
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}
    assert named == set(signature(SampleStore).parameters) - {"path"}
