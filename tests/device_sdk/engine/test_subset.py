"""Which tensors are trained and sent, from a plan's training settings."""

import pytest

from device_sdk.engine.spec import parse_spec
from device_sdk.engine.subset import trained_subset
from protocol.errors import ConfigError

SPEC = parse_spec(
    {
        "input": [4],
        "layers": [
            {"type": "dense", "units": 3},
            {"type": "batch_norm"},
            {"type": "relu"},
            {"type": "dense", "units": 3},
            {"type": "relu"},
            {"type": "dense", "units": 2},
        ],
        "loss": "softmax_cross_entropy",
    }
)


def names(**training: object) -> list[str]:
    return [tensor.name for tensor in trained_subset(SPEC, training).layout.tensors]


def test_everything_is_trained_unless_the_plan_says_otherwise() -> None:
    assert trained_subset(SPEC, {}).layout is SPEC.layout
    assert trained_subset(SPEC, {"trainable": ["*"]}).layout is SPEC.layout
    assert trained_subset(SPEC, {"trainable_last": 9}).layout is SPEC.layout


def test_patterns_choose_tensors_in_the_order_of_the_layout() -> None:
    assert names(trainable=["*.bias"]) == ["0.dense.bias", "3.dense.bias", "5.dense.bias"]
    assert names(trainable=["5.*", "0.dense.bias"]) == [
        "0.dense.bias",
        "5.dense.weight",
        "5.dense.bias",
    ]


def test_the_last_layers_are_those_that_have_tensors() -> None:
    assert names(trainable_last=1) == ["5.dense.weight", "5.dense.bias"]
    assert len(names(trainable_last=3)) == 8


def test_statistics_that_follow_the_data_are_sent_with_what_is_trained() -> None:
    assert "1.batch_norm.mean" in names(trainable=["1.*"])
    assert names(trainable=["1.batch_norm.scale"]) == ["1.batch_norm.scale"]


@pytest.mark.parametrize(
    ("training", "why"),
    [
        ({"trainable": "*.bias"}, "a list of names or patterns"),
        ({"trainable": [3]}, "a list of names or patterns"),
        ({"trainable": ["*.bias", "*.gain"]}, r"'\*\.gain' is none of 0\.dense\.weight"),
        ({"trainable": ["*.mean"]}, "nothing that follows a gradient"),
        ({"trainable_last": 0}, "1 or more, not 0"),
        ({"trainable_last": True}, "1 or more, not True"),
        ({"trainable_last": 1, "trainable": ["0.*"]}, "not both"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(training: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        trained_subset(SPEC, training)
