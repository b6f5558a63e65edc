"""What a device works on: a lease, the model that it names, and the plan of how to train it."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Keep
from device_sdk.feedback import is_sound
from device_sdk.fetch import Fetch
from device_sdk.held import MODEL, HeldModel, pack_held, unpack_held
from device_sdk.plan import TrainingPlan
from device_sdk.trainer import Assignment, Trained
from protocol.errors import LocalProtocolError
from protocol.messages import Lease

#: Without a plan yet, how often to say that one is here.
DEFAULT_CHECK_IN_S: Final = 10.0

Float32 = npt.NDArray[np.float32]


class Work:
    """One lease at a time. The model that was fetched last stays, for a lease that names it too.

    It is also taken from what is ``stored``. ``plan`` is None until one is heard, ``fetch`` while
    no model is on its way; ``ends_at`` is when the lease has run out, and ``upload_at`` when its
    update may be sent. ``newest_version`` is the newest there is, as far as it was heard of.
    """

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self.plan: TrainingPlan | None = None
        self.fetch: Fetch | None = None
        self.ends_at = math.inf
        self.upload_at = -math.inf
        self.newest_version = 0
        self._lease: Lease | None = None
        self._assigned: TrainingPlan | None = None
        self._unfit: TrainingPlan | None = None
        kept = unpack_held(stored)
        self._model = None if kept is None else kept[0]
        self._is_kept = True

    @property
    def lease(self) -> Lease:
        """The lease. Raises LocalProtocolError before the first one."""
        if self._lease is None:
            raise LocalProtocolError("no lease yet")
        return self._lease

    @property
    def check_in_s(self) -> float:
        """How often the plan has devices check in."""
        return DEFAULT_CHECK_IN_S if self.plan is None else self.plan.check_in_s

    @property
    def held_version(self) -> int:
        """The version of the model that is here; -1 for none."""
        return -1 if self._model is None else self._model.version

    @property
    def _params(self) -> Float32 | None:
        model, lease = self._model, self.lease
        if model is None or not model.is_of(lease.version, lease.model_hash):
            return None
        return model.params

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
        """Work for a lease; its model is fetched unless it is here. Raises as `Fetch`."""
        fetch = Fetch(lease, self._model)
        self._lease, self.ends_at = lease, now + lease.ttl_s
        self.upload_at = now + lease.upload_after_s
        self.fetch = fetch if self._params is None else None

    def put_together(self, task: str) -> bool:
        """Make the model of all that was fetched; False: the plan that says how is not here.

        Raises RemoteProtocolError, as `Fetch.params` does.
        """
        fetch, lease = self.fetch, self.lease
        if fetch is None or (self.plan is None and fetch.needs_plan):
            return False
        self._model = HeldModel(lease.version, lease.model_hash, fetch.params(self.plan, task))
        self.fetch, self._is_kept = None, False
        return True

    def kept(self) -> list[Keep]:
        """Return what is to be stored of a model that was just fetched, and assigned."""
        if self._is_kept or self._model is None or self._assigned is None:
            return []
        self._is_kept = True
        return [Keep(MODEL, pack_held(self._model, self._assigned.model))]

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
