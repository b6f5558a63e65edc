"""Small scenario files that tests change a line of."""

from pathlib import Path

from simulator.scenario import Scenario, load_scenario

#: A fleet that learns something within seconds. Line 1 is `name`.
SMALL = """\
name = "small"
duration_s = 30

[data]
source = "digits"
split = "dirichlet"

[task]
check_in_s = 5
[task.model]
input = [64]
layers = [{ type = "dense", units = 10 }]
loss = "softmax_cross_entropy"
[task.training]
batch_size = 32
learning_rate = 0.1
[task.buffered]
goal = 3

[[class]]
name = "fast"
count = 4
training = { seconds = 1.5, law = "uniform", spread = 0.5 }
link = "wifi"

[[class]]
name = "slow"
count = 2
slow = true
training = { seconds = 6 }
link = { profile = "lte_m", loss = 0.02 }
"""


def write(folder: Path, text: str = SMALL) -> Path:
    """Write a scenario file; return its path."""
    path = folder / "small.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, *changes: tuple[str, str]) -> Scenario:
    """Return the small scenario with texts replaced by others."""
    text = SMALL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return load_scenario(write(folder, text))
