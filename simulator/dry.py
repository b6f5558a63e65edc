"""Training that costs next to nothing, to study the protocol alone, at scale."""

from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.messages import MIN_SAMPLES


class DryTrainer(Trainer):
    """Moves every param by ``delta``, without an engine; one serves any number of devices."""

    def __init__(self, num_samples: int = MIN_SAMPLES, delta: float = 0.001) -> None:
        self._num_samples = num_samples
        self._delta = delta

    def num_samples(self) -> int:
        """As many as it was told."""
        return self._num_samples

    def train(self, assignment: Assignment) -> Trained:
        """Return a valid update at constant cost."""
        return Trained(assignment.params + self._delta, self._num_samples, {})
