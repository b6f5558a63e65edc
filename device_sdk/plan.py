"""The plan as a device uses it: what the message says, taken apart and checked once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.json_objects import read_object
from protocol.messages import Plan
from protocol.vectors.layout import Subset


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The model and the settings to train it with, and which of its params are trained and sent."""

    model: Mapping[str, Any]
    training: Mapping[str, Any]
    trained: Subset
    check_in_s: float


@lru_cache(maxsize=2)  # thousands of sessions in one process share what they are all told
def read_plan(plan: Plan) -> TrainingPlan:
    """Return what a plan says. Raises RemoteProtocolError (``malformed``)."""
    from device_sdk.engine.spec import parse_spec  # noqa: PLC0415 - importing the SDK is quick
    from device_sdk.engine.subset import trained_subset  # noqa: PLC0415 - without the engine

    try:
        model = read_object(plan.model, "plan.model")
        training = read_object(plan.training, "plan.training")
        trained = trained_subset(parse_spec(model), training)
    except (ValueError, RecursionError) as error:  # ConfigError is a ValueError
        raise RemoteProtocolError(refusals.MALFORMED, f"plan: {error}") from None
    return TrainingPlan(model, training, trained, float(plan.check_in_s))
