"""What a device works on: a lease, the model that it names, and the plan of how to train it."""

import math

import numpy as np
import numpy.typing as npt

from device_sdk.feedback import is_sound
from device_sdk.fetch import Fetch
from device_sdk.plan import TrainingPlan
from device_sdk.trainer import Assignment, Trained
from protocol.errors import LocalProtocolError
from protocol.messages import Lease, ModelChunk

Float32 = npt.NDArray[np.float32]


class Work:
    """One lease at a time. The model that was fetched last stays, for a lease that names it too.

    ``plan`` is None until one is heard, ``fetch`` while no model is on its way; ``ends_at`` is when
    the lease has run out.
    """

    def __init__(self) -> None:
        self.plan: TrainingPlan | None = None
        self.fetch: Fetch | None = None
        self.ends_at = math.inf
        self._lease: Lease | None = None
        self._assigned: TrainingPlan | None = None
        self._unfit: TrainingPlan | None = None
        self._model: tuple[int, bytes, Float32] | None = None

    @property
    def lease(self) -> Lease:
        """The lease. Raises LocalProtocolError before the first one."""
        if self._lease is None:
            raise LocalProtocolError("no lease yet")
        return self._lease

    @property
    def held_version(self) -> int:
        """The version of the model that is here; -1 for none."""
        return -1 if self._model is None else self._model[0]

    @property
    def _params(self) -> Float32 | None:
        if self._model is None or self._model[:2] != (self.lease.version, self.lease.model_hash):
            return None
        return self._model[2]

    @property
    def is_complete(self) -> bool:
        """Whether the plan and the model that the lease names are here."""
        return self.plan is not None and self._params is not None

    @property
    def is_unfit(self) -> bool:
        """Whether this device cannot train by the plan that is here."""
        return self._unfit is not None and self._unfit == self.plan

    def refuse_plan(self) -> None:
        """The plan of the last assignment cannot be trained by here, however often it is tried."""
        self._unfit = self._assigned

    def begin(self, lease: Lease, now: float) -> None:
        """Work for a lease; its model is fetched unless it is here."""
        self._lease, self.ends_at = lease, now + lease.ttl_s
        self.fetch = Fetch(lease) if self._params is None else None

    def add(self, chunk: ModelChunk) -> bool:
        """Take a chunk of the model; return whether that was the last. Raises as `Fetch.add`."""
        params = None if self.fetch is None else self.fetch.add(chunk)
        if params is None:
            return False
        self._model = (self.lease.version, self.lease.model_hash, params)
        self.fetch = None
        return True

    def assignment(self, seed: bytes) -> Assignment | None:
        """Return what is to be trained; None: the plan is of another model, or not all is here."""
        plan, params = self.plan, self._params
        if plan is None or params is None or params.size != plan.trained.whole.size:
            return None
        self._assigned = plan
        return Assignment(
            params=params,
            version=self.lease.version,
            model=plan.model,
            training=plan.training,
            seed=seed,
        )

    def delta(self, trained: Trained) -> Float32 | None:
        """Return the delta of what is trained; None if it is none that may leave the device."""
        plan, params = self.plan, self._params
        if plan is None or params is None or trained.params.size != params.size:
            return None
        delta = plan.trained.take(trained.params) - plan.trained.take(params)
        return delta if is_sound(delta) else None
