"""A configuration names the engine, and a device gets a trainer with it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from aggregator.export.training import export_training
from device_sdk.adapters.tflite import SignatureTrainer
from device_sdk.belongings import make_trainer
from device_sdk.config import load_config
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import NumpyTrainer, Trainer
from protocol.errors import ConfigError
from tests.device_sdk.adapters.plans import MLP, samples
from tests.support.torch import require_torch


def trainer_of(folder: Path, training: str) -> Trainer:
    x, y = samples()
    np.savez(folder / "data.npz", x=x, y=y)
    file = folder / "device.toml"
    file.write_text(
        f'task = "t"\ndevice = "a"\nstate_dir = "{folder}"\n'
        f'[data]\nfile = "{folder / "data.npz"}"\n[training]\n{training}\n'
    )
    return make_trainer(load_config(file))


def test_the_engine_is_the_sdks_own_unless_another_is_named(tmp_path: Path) -> None:
    assert isinstance(trainer_of(tmp_path, ""), NumpyTrainer)


def test_a_file_with_signatures_is_an_engine(tmp_path: Path) -> None:
    file = tmp_path / "training.tflite"
    file.write_bytes(export_training(Model(parse_spec(MLP))))
    trainer = trainer_of(tmp_path, f'engine = "tflite"\nengine_file = "{file}"')
    assert isinstance(trainer, SignatureTrainer)
    assert trainer.num_samples() == 40


def test_torch_is_an_engine(tmp_path: Path) -> None:
    require_torch()
    trainer = trainer_of(tmp_path, 'engine = "torch"')
    assert type(trainer).__name__ == "TorchTrainer"
    assert trainer.num_samples() == 40


def test_without_torch_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "device_sdk.adapters.torch", None)
    with pytest.raises(ConfigError, match=r"engine: .*; pip install 'fedbus\[torch\]'"):
        trainer_of(tmp_path, 'engine = "torch"')
