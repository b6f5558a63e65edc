"""Proof that somebody signed two things that exclude each other, kept for the operator to see."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgpack

from device_sdk.actions import Action, Store

#: Before the keys of evidence in storage.
EVIDENCE: Final = "evidence-"
#: The first so many cases are kept; all are counted.
MAX_CASES: Final = 8


class Evidence:
    """What has been found so far; it outlives epochs. ``counts`` is told of each new case."""

    def __init__(self, stored: Mapping[str, bytes], counts: Counter[str]) -> None:
        self._cases = {data: key for key, data in stored.items() if key.startswith(EVIDENCE)}
        self._counts = counts

    def keep(self, what: str, first: bytes, second: bytes) -> list[Action]:
        """Count a case as ``conflicting_<what>`` and keep both signed messages, once."""
        case: bytes = msgpack.packb([what, first, second])
        if case in self._cases:
            return []
        self._counts[f"conflicting_{what}"] += 1
        if len(self._cases) >= MAX_CASES:
            return []
        key = self._cases[case] = f"{EVIDENCE}{len(self._cases)}"
        return [Store(key, case)]
