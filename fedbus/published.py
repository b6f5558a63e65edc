"""The newest model as a task publishes it: plan, manifest and chunks, put together. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from device_sdk.engine import parse_spec
from device_sdk.plan import TrainingPlan, read_plan
from protocol import refusals
from protocol.chunks import Assembly
from protocol.codec import decode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import AGGREGATOR, Manifest, ModelChunk, Plan
from protocol.topics import Kind, Topics
from protocol.vectors.layout import params_from_bytes


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
        self._assembly = Assembly(0, 0)

    def see(self, topic: str, payload: bytes) -> str | None:
        """Take a message; return what to subscribe to next, if that has become clear.

        Raises RemoteProtocolError for what no aggregator of ours publishes.
        """
        task, place = self._topics.task, self._topics.parse(topic)
        if not payload:
            return None  # a retained message was cleared
        if place.kind is Kind.PLAN:
            self._plan = read_plan(decode(payload, (Plan,), task=task, sender=AGGREGATOR))
        elif place.kind is Kind.MANIFEST and self._manifest is None:
            manifest = decode(payload, (Manifest,), task=task, sender=AGGREGATOR)
            self._manifest = manifest
            self._assembly = Assembly(manifest.num_chunks, manifest.model_bytes)
            return self._topics.model_filter(manifest.version)
        elif place.kind is Kind.MODEL and self._manifest is not None:
            chunk = decode(payload, (ModelChunk,), task=task, sender=AGGREGATOR)
            if chunk.version == self._manifest.version and chunk.index < self._manifest.num_chunks:
                self._assembly.replace(chunk.index, chunk.data)
        return None

    @property
    def is_complete(self) -> bool:
        """Whether `newest` has all it needs."""
        return self._plan is not None and self._manifest is not None and self._assembly.complete

    def newest(self) -> NewestModel:
        """Return the model, once it is complete.

        Raises RemoteProtocolError unless it has its hash and the plan's size.
        """
        if self._plan is None or self._manifest is None:
            raise LocalProtocolError(f"not complete: {self.missing()}")
        data = self._assembly.join()
        if hashlib.sha256(data).digest() != self._manifest.model_hash:
            raise RemoteProtocolError(refusals.MALFORMED, "the model does not have its hash")
        params = params_from_bytes(data, parse_spec(self._plan.model).layout.size)
        return NewestModel(self._plan.model, params, self._manifest.version)

    def missing(self) -> str:
        """Say what has not come yet."""
        if self._plan is None and self._manifest is None:
            return "neither plan nor model has been published"
        if self._plan is None or self._manifest is None:
            return "no plan" if self._plan is None else "no version of the model"
        missing = len(self._assembly.missing())
        return (
            f"{missing} of {self._manifest.num_chunks} chunks of version {self._manifest.version}"
        )
