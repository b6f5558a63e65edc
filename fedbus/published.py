"""The newest model as a task publishes it: plan, manifest and chunks, put together. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_sdk.fetch import Fetch
from device_sdk.plan import TrainingPlan, read_plan
from protocol import refusals
from protocol.codec import decode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import AGGREGATOR, DifferenceChunk, Manifest, ModelChunk, Plan
from protocol.topics import Kind, Topics


@dataclass(frozen=True, slots=True)
class NewestModel:
    """One version of a task's model: its spec as data, and the flat params."""

    spec: Mapping[str, Any]
    params: npt.NDArray[np.float32]
    version: int


class Published:
    """What has been heard of a task's newest model.

    Versions that appear while one is being fetched are let pass: there would be no end to it.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._plan: TrainingPlan | None = None
        self._manifest: Manifest | None = None
        self._fetch: Fetch | None = None

    def see(self, topic: str, payload: bytes) -> list[str]:
        """Take a message; return what to subscribe to next, if that has become clear.

        Raises RemoteProtocolError for what no aggregator of ours publishes.
        """
        task, place = self._topics.task, self._topics.parse(topic)
        if not payload:
            return []  # a retained message was cleared
        if place.kind is Kind.PLAN:
            self._plan = read_plan(decode(payload, (Plan,), task=task, sender=AGGREGATOR))
        elif place.kind is Kind.MANIFEST and self._manifest is None:
            manifest = decode(payload, (Manifest,), task=task, sender=AGGREGATOR)
            self._manifest, self._fetch = manifest, Fetch(manifest)
            return [each for some in self._fetch.ask(self._topics) for each in some.filters]
        elif place.kind is Kind.MODEL:
            self._take(decode(payload, (ModelChunk,), task=task, sender=AGGREGATOR))
        elif place.kind is Kind.DIFFERENCE:
            self._take(decode(payload, (DifferenceChunk,), task=task, sender=AGGREGATOR))
        return []

    def _take(self, chunk: ModelChunk | DifferenceChunk) -> None:
        if self._fetch is not None and self._fetch.awaits(chunk):
            self._fetch.add(chunk)

    @property
    def is_complete(self) -> bool:
        """Whether `newest` has all it needs."""
        return self._plan is not None and self._fetch is not None and self._fetch.is_complete

    def newest(self) -> NewestModel:
        """Return the model, once it is complete.

        Raises RemoteProtocolError unless it has its hash and the plan's size.
        """
        if self._plan is None or self._manifest is None or self._fetch is None:
            raise LocalProtocolError(f"not complete: {self.missing()}")
        params = self._fetch.params(self._plan, self._topics.task)
        if params.size != self._plan.trained.whole.size:
            raise RemoteProtocolError(refusals.WRONG_SHAPE, "the model is of another plan")
        return NewestModel(self._plan.model, params, self._manifest.version)

    def missing(self) -> str:
        """Say what has not come yet."""
        if self._plan is None and self._manifest is None:
            return "neither plan nor model has been published"
        if self._plan is None or self._manifest is None or self._fetch is None:
            return "no plan" if self._plan is None else "no version of the model"
        missing, all_ = self._fetch.num_missing, self._fetch.num_chunks
        return f"{missing} of {all_} chunks of version {self._manifest.version}"
