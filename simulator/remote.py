"""Training elsewhere while virtual time stands still: in other processes, on other machines."""

from typing import Protocol

from device_sdk.trainer import Assignment, Trained


class TrainRemote(Protocol):
    """Where trainings run. What comes out must depend on device and assignment alone.

    `submit` is called when a training begins in virtual time, `result` when it ends there: between
    the two, other devices begin theirs. The result of a device that lost power is never fetched.
    """

    def submit(self, device: str, assignment: Assignment) -> object:
        """Begin a training; return a handle."""

    def result(self, handle: object) -> Trained | None:
        """Wait for a training and return what came out; None: it failed."""
