"""Which coordinates a shared-seed support names: known to both sides, so never sent."""

from functools import lru_cache

from protocol.stream import SEED_BYTES, derive


@lru_cache(maxsize=64)  # many updates share a base version
def support_seed(task: str, version: int) -> bytes:
    """Return the 32-byte seed from which all updates of one base version draw their support.

    It is public: the support says nothing about a device, and devices of one version must agree.
    """
    return derive(bytes(SEED_BYTES), "support", task, version)
