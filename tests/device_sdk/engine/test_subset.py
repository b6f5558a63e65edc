"""Which tensors are trained and sent, from a plan's training settings."""

import pytest

from device_sdk.engine.subset import trained_subset
from protocol.errors import ConfigError
from protocol.vectors.layout import Layout, Tensor

LAYOUT = Layout(
    (
        Tensor("0.dense.weight", (4, 3)),
        Tensor("0.dense.bias", (3,)),
        Tensor("2.dense.weight", (3, 3)),
        Tensor("2.dense.bias", (3,)),
        Tensor("4.dense.weight", (3, 2)),
        Tensor("4.dense.bias", (2,)),
    )
)


def names(**training: object) -> list[str]:
    return [tensor.name for tensor in trained_subset(LAYOUT, training).layout.tensors]


def test_everything_is_trained_unless_the_plan_says_otherwise() -> None:
    assert trained_subset(LAYOUT, {}).layout is LAYOUT
    assert trained_subset(LAYOUT, {"trainable": ["*"], "trainable_layers": 9}).layout is LAYOUT


def test_patterns_choose_tensors_in_the_order_of_the_layout() -> None:
    assert names(trainable=["*.bias"]) == ["0.dense.bias", "2.dense.bias", "4.dense.bias"]
    assert names(trainable=["4.*", "0.dense.bias"]) == [
        "0.dense.bias",
        "4.dense.weight",
        "4.dense.bias",
    ]


def test_the_last_layers_are_those_that_have_tensors() -> None:
    assert names(trainable_layers=1) == ["4.dense.weight", "4.dense.bias"]
    assert names(trainable_layers=2, trainable=["*.bias"]) == ["2.dense.bias", "4.dense.bias"]


@pytest.mark.parametrize(
    ("training", "why"),
    [
        ({"trainable": []}, "a list of names or patterns"),
        ({"trainable": "*.bias"}, "a list of names or patterns"),
        ({"trainable": [3]}, "3 is none of the model's tensors"),
        ({"trainable": ["*.bias", "*.scale"]}, r"'\*\.scale' is none of the model's tensors 0\."),
        ({"trainable_layers": 0}, "1 or more, not 0"),
        ({"trainable_layers": True}, "1 or more, not True"),
        ({"trainable_layers": 1, "trainable": ["0.*"]}, "leave nothing to train"),
    ],
)
def test_a_choice_of_nothing_is_refused(training: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        trained_subset(LAYOUT, training)
