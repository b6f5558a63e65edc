"""The states of a device in one task, and what leads from one to another."""

from enum import Enum
from typing import Final

from protocol.errors import LocalProtocolError


class State(Enum):
    """What the device is doing."""

    IDLE = "idle"  #: wants a lease
    FETCHING = "fetching"  #: has a lease, waits for the model's chunks
    TRAINING = "training"
    REPORTING = "reporting"  #: holds an update without a receipt
    AWAY = "away"  #: was turned away; asks again later


TRANSITIONS: Final = {
    (State.IDLE, "lease"): State.FETCHING,
    (State.IDLE, "turned away"): State.AWAY,
    (State.AWAY, "timer"): State.IDLE,
    (State.FETCHING, "model"): State.TRAINING,
    (State.FETCHING, "lease ran out"): State.IDLE,
    (State.TRAINING, "trained"): State.REPORTING,
    (State.TRAINING, "failed"): State.IDLE,
    (State.REPORTING, "receipt"): State.IDLE,
    (State.REPORTING, "refusal"): State.IDLE,
}


def after(state: State, event: str) -> State:
    """Return the state that an event leads to. Raises LocalProtocolError if it leads nowhere."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise LocalProtocolError(f"{event} while {state.value}") from None


class Machine:
    """The state that one device is in."""

    def __init__(self, state: State) -> None:
        self.state = state

    def step(self, event: str) -> None:
        """Go where an event leads. Raises LocalProtocolError if that is nowhere."""
        self.state = after(self.state, event)
