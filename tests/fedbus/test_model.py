"""``fedbus model``: what a spec costs, said before a device finds out."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_sdk.engine.spec import parse_spec
from device_sdk.engine.specs import named_spec, spec_names
from fedbus.__main__ import main

TINY = """
input = [6]
loss = "softmax_cross_entropy"
[[layers]]
type = "dense"
units = 4
name = "body"
[[layers]]
type = "relu"
[[layers]]
type = "dense"
units = 3
"""


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["model", "show", *arguments, "--json"]) in {0, 1}
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return report


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return str(path)


def test_every_shipped_spec_is_listed_and_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(spec_names())
    for name in spec_names():
        assert shown(capsys, name)["params"] == parse_spec(named_spec(name)).layout.size


def test_layers_shapes_params_and_operations_add_up(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = shown(capsys, tiny)
    assert report["input"] == [6]
    assert [layer["output"] for layer in report["layers"]] == [[4], [4], [3]]
    assert [layer["params"] for layer in report["layers"]] == [28, 0, 15]
    assert [layer["name"] for layer in report["layers"]] == ["body", "", ""]
    assert report["params"] == 43
    assert report["flops"] == sum(layer["flops"] for layer in report["layers"])
    for what in ("train_bytes", "infer_bytes"):
        parts = dict(report[what])
        assert parts.pop("total") == sum(parts.values())


def test_a_person_reads_a_table(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", tiny, "--budget", "1 MiB"]) == 0
    said = capsys.readouterr().out
    assert "dense (body)" in said
    assert "to train" in said
    assert "to infer" in said
    assert "fits 1.05 MB: whole batches" in said


def test_a_budget_decides_the_micro_batch(capsys: pytest.CaptureFixture[str]) -> None:
    whole = shown(capsys, "cnn", "--batch-size", "64")["train_bytes"]["total"]
    report = shown(capsys, "cnn", "--batch-size", "64", "--budget", f"{whole // 2} B")
    assert report["fits"] is True
    assert 1 <= report["micro_batch"] < 64
    assert report["uses"] <= whole // 2


@pytest.mark.parametrize("name", spec_names())
def test_what_does_not_fit_names_the_smallest_budget_and_fails(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "show", name, "--budget", "10 kB"]) == 1
    said = capsys.readouterr().out
    assert "does not fit 10 kB" in said
    least = int(said.split("needs at least ")[1].split()[0].rstrip(",:"))
    assert main(["model", "show", name, "--budget", f"{least} B"]) == 0
    assert main(["model", "show", name, "--budget", f"{least - 1} B"]) == 1


def test_a_configuration_brings_its_training_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = json.loads(json.dumps(named_spec("mlp")))
    path = tmp_path / "fed.json"
    task = {"task": "t", "model": model, "training": {"optimiser": "adam", "batch_size": 7}}
    path.write_text(json.dumps({"task": task}))
    report = shown(capsys, str(path))
    assert report["batch_size"] == 7
    assert report["train_bytes"]["optimiser"] > shown(capsys, "mlp")["train_bytes"]["optimiser"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("input = [6", "bad.toml"),
        ("input = 6\nlayers = []\nloss = 'huber'", "input"),
        (TINY.replace('"relu"', '"rely"'), "model.layers[1]"),
        (TINY + "units = 2\n[training]\nrate = 3", "bad.toml"),
        (TINY + "[training]\nrate = 3\n", "rate"),
    ],
)
def test_a_spec_that_cannot_be_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, why: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    assert main(["model", "show", str(path)]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("bad.tflite", b"\x1c\x00TFL3\xff\xfe", "utf-8"),
        ("bad.json", b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        ("bad.toml", b"a = " + b"[" * 100_000 + b"]" * 100_000, "bad.toml"),
    ],
)
def test_what_is_no_text_or_nested_too_deep_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, why: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["model", "show", str(path)]) == 2
    assert why in capsys.readouterr().err


def test_a_name_that_nobody_knows_lists_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "resnet"]) == 2
    assert "none of autoencoder, cnn," in capsys.readouterr().err
