"""`memory_budget` in a device's configuration: its engine keeps it, measured in a process too."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from device_sdk.actions import Train
from device_sdk.config import DeviceConfig, TrainingConfig
from device_sdk.device import Device
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from device_sdk.training import Result

SPEC = named_spec("softmax_regression")

#: A device's training of the CNN, a batch of it 28 MB: alone in its process, which says by how many
#: bytes its resident memory grew at most. Something small is trained first: it loads what training
#: needs.
BUDGETED = """
import sys, threading
from pathlib import Path
import numpy as np
from device_sdk.actions import Train
from device_sdk.config import DeviceConfig, TrainingConfig
from device_sdk.device import Device
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec
from device_sdk.trainer import Assignment, NumpyTrainer
spec = named_spec("cnn")
model = Model(parse_spec(spec))
params = model.init(bytes(32))
x = np.ones((512, *model.spec.input), np.float32)
y = np.arange(512) % 6
training = TrainingConfig(memory_budget=sys.argv[2])
config = DeviceConfig(task="t", device="a", state_dir=sys.argv[1], training=training)
device = Device(config, NumpyTrainer(data=(x, y)))
def resident(key):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(key)[2].split()[0])
def train(**settings):
    finished = threading.Event()
    device._training._done = finished.set
    device._training.train(Train(bytes(16), Assignment(params, 1, spec, settings, bytes(32))))
    assert finished.wait(60)
    (result,) = device._training.results()
    assert result.trained is not None, result.failed
train(batch_size=1, max_steps=2, momentum=0.9)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = resident("VmRSS:")
train(batch_size=256, momentum=0.9)
print(resident("VmHWM:") - before)
device._leave()
"""
#: What Python and the C library take beside the plan, in bytes.
ALLOWANCE = 1 << 20


def result_of(folder: Path, budget: str) -> Result:
    """What becomes of a training on a device with this budget."""
    model = Model(parse_spec(SPEC))
    x = np.zeros((32, *model.spec.input), np.float32)
    config = DeviceConfig(
        task="t", device="a", state_dir=str(folder), training=TrainingConfig(memory_budget=budget)
    )
    device = Device(config, NumpyTrainer(data=(x, np.zeros(32, np.int64))))
    finished = threading.Event()
    device._training._done = finished.set
    device._act(Train(bytes(16), Assignment(model.init(bytes(32)), 1, SPEC, {}, bytes(32))))
    assert finished.wait(10)
    (result,) = device._training.results()
    device._leave()
    return result


def test_the_engine_of_a_device_keeps_the_budget_of_its_configuration(tmp_path: Path) -> None:
    assert result_of(tmp_path / "none", "").trained is not None
    assert result_of(tmp_path / "enough", "8 MiB").trained is not None
    refused = result_of(tmp_path / "little", "1 kB")
    assert refused.is_plan_unfit
    assert "memory budget of 1000 bytes: this model needs at least" in refused.failed


@pytest.mark.slow
@pytest.mark.parametrize("budget", [2 << 20, 8 << 20])
def test_a_device_in_a_process_of_its_own_grows_by_no_more_than_its_budget(
    tmp_path: Path, budget: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUDGETED, str(tmp_path), str(budget)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    grown = int(done.stdout)
    sys.stdout.write(f"budget {budget}: {grown} bytes of growth\n")
    assert budget / 8 < grown, "it was measured"
    assert grown < budget + ALLOWANCE


class Own(Trainer):
    """Somebody's own trainer."""

    def num_samples(self) -> int:
        return 1

    def train(self, assignment: Assignment) -> Trained:
        return Trained(assignment.params, 1, {})


@pytest.mark.parametrize(("budget", "warns"), [("1 MiB", True), ("", False)])
def test_a_trainer_that_may_not_keep_the_budget_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, budget: str, *, warns: bool
) -> None:
    config = DeviceConfig(
        task="t",
        device="a",
        state_dir=str(tmp_path),
        training=TrainingConfig(memory_budget=budget),
    )
    with caplog.at_level(logging.WARNING):
        Device(config, Own())._leave()
    assert ("memory_budget" in caplog.text and "Own" in caplog.text) == warns
