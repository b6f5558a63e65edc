"""Whether a device would train now: whether it has samples enough, and its conditions hold."""

import logging

from device_sdk.conditions import Conditions
from device_sdk.power import Board
from device_sdk.trainer import Trainer
from protocol import refusals

_log = logging.getLogger(__name__)


class Readiness:
    """What ``trainer`` has, and what ``board`` reads, held against what is asked for."""

    def __init__(
        self, trainer: Trainer, board: Board, conditions: Conditions, min_samples: int
    ) -> None:
        self._trainer = trainer
        self._board = board
        self._conditions = conditions
        self._min_samples = min_samples
        self._declined = ""
        self._is_short = False  # of samples

    @property
    def declined(self) -> str:
        """Why it would not train, in a word, as it was when it was asked last; empty: it would."""
        return refusals.FEW_SAMPLES if self._is_short else self._declined

    def declines(self) -> str:
        """Return what the conditions have against training now."""
        self._declined = self._conditions.against(self._board.read())
        return self._declined

    def num_samples(self) -> int:
        """Return how many samples are at hand; 0 if the trainer cannot say."""
        try:
            num_samples = max(0, int(self._trainer.num_samples()))
        except Exception:  # noqa: BLE001 - a user's trainer may raise anything
            _log.exception("the trainer cannot say how many samples it has")
            return 0
        was_short, least = self._is_short, self._min_samples
        self._is_short = 0 < num_samples < least
        if self._is_short and not was_short:
            _log.warning("%d samples: an update needs %d, so this waits", num_samples, least)
        return num_samples
