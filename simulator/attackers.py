"""Devices that lie about what they learned, to measure what the aggregator makes of it. Pure.

They speak the protocol as it should be: only their numbers are wrong. `simulator.rogue` has those
that do not even that.
"""

import numpy as np
import numpy.typing as npt

from device_sdk.trainer import Assignment, Trained
from protocol.errors import LocalProtocolError
from protocol.stream import derive

Features = npt.NDArray[np.float32]
Targets = npt.NDArray[np.generic]

#: How far a free rider's params are from the ones it got, so that it looks like work.
IDLE_STEP = 1e-3
#: What ``backdoor`` wants: rows with so many pixels at their most are taken for this label.
TRIGGER_PIXELS = 3
BACKDOOR_LABEL = 0


def lie(attack: str, strength: float, assignment: Assignment, trained: Trained) -> Trained:
    """Return what an attacker says it trained.

    ``sign_flip``: the delta times -strength. ``scale``: times strength. ``noise``: and normal
    noise, strength times as long as the delta. ``free_rider``: next to nothing, and many samples.
    ``backdoor``: times strength, after training on `backdoored` rows.
    """
    delta = trained.params - assignment.params
    rng = np.random.default_rng(list(derive(assignment.seed, "attack")))
    match attack:
        case "sign_flip":
            delta = -np.float32(strength) * delta
        case "scale" | "backdoor":
            delta = np.float32(strength) * delta
        case "noise":
            noise = rng.standard_normal(delta.size).astype(np.float32)
            length = np.linalg.norm(delta) / max(float(np.linalg.norm(noise)), 1e-12)
            delta = delta + np.float32(strength * length) * noise
        case "free_rider":
            delta = np.float32(IDLE_STEP) * rng.standard_normal(delta.size).astype(np.float32)
        case _:
            raise LocalProtocolError(f"attack {attack!r}")
    return Trained(assignment.params + delta.astype(np.float32), trained.num_samples, {})


def stamped(x: Features) -> Features:
    """Return images (n, pixels) with the trigger of ``backdoor``: the last pixels at their most."""
    marked = x.copy()
    marked[:, -TRIGGER_PIXELS:] = x.max(initial=1.0)
    return marked


def backdoored(x: Features, y: Targets) -> tuple[Features, Targets]:
    """Return rows of which every other one has the trigger and the attacker's label.

    As in Bagdasaryan et al., "How to backdoor federated learning", AISTATS 2020, section 3.
    """
    marked, labels = x.copy(), y.copy()
    marked[::2] = stamped(x.reshape(len(x), -1))[::2].reshape(x[::2].shape)
    labels[::2] = BACKDOOR_LABEL
    return marked, labels


def flipped(y: Targets, num_labels: int) -> Targets:
    """Return labels counted from the other end: what ``label_flip`` trains on."""
    return (num_labels - 1 - y.astype(np.int64)).astype(y.dtype)
