"""The model that a device holds: kept across reboots, so that it fetches only what it has missed.

One file, replaced at each model that was fetched. Nothing rests on it: without it the device
fetches a whole model, as a new one does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np
import numpy.typing as npt

#: Its key in the storage.
MODEL: Final = "model"

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HeldModel:
    """Flat params, whose version they are, and their SHA-256 as leases name it."""

    version: int
    model_hash: bytes
    params: Float32

    def is_of(self, version: int, model_hash: bytes) -> bool:
        """Whether it is that version of this very task."""
        return (self.version, self.model_hash) == (version, model_hash)


def pack_held(held: HeldModel, spec: Mapping[str, Any]) -> bytes:
    """Return the bytes to be stored; ``spec`` is the plan's model, to predict with the params."""
    params = held.params.astype("<f4", copy=False).data
    packed: bytes = msgpack.packb([held.version, held.model_hash, json.dumps(dict(spec)), params])
    return packed


def unpack_held(stored: Mapping[str, bytes]) -> tuple[HeldModel, Mapping[str, Any]] | None:
    """Return the model in a storage and its spec, None if there is none that can be read."""
    try:
        version, model_hash, spec, params = msgpack.unpackb(stored[MODEL])
        held = HeldModel(version, model_hash, np.frombuffer(params, "<f4"))
        return held, json.loads(spec)
    except (KeyError, ValueError, TypeError, msgpack.UnpackException):
        return None
