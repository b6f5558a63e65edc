"""The epoch keys of a device: those of its keys file, and the next ones, which it makes itself.

A device that has a roster of one epoch makes its key for the next, keeps it, and shows the public
half, endorsed by its identity, in its birth: so the next roster can be signed without a visit.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgpack

from device_sdk.actions import Action, Delete, Store
from device_sdk.identity import Keys
from protocol.secagg import keys as signing

#: Where the keys that the device has made are stored.
EPOCH_KEYS: Final = "epoch-keys"
#: Where a round of `pairwise` is stored, which is over with its epoch.
ROUND: Final = "round"


class EpochKeys:
    """Secrets by epoch; those of the keys file go before those that were made."""

    def __init__(self, keys: Keys, stored: Mapping[str, bytes]) -> None:
        self._keys = keys
        self._made: dict[int, bytes] = {}
        if EPOCH_KEYS in stored:
            made = msgpack.unpackb(stored[EPOCH_KEYS], strict_map_key=False)
            self._made = {int(epoch): bytes(secret) for epoch, secret in made.items()}

    def secret(self, epoch: int) -> bytes | None:
        """Return the X25519 secret of an epoch, None without one."""
        return self._keys.epochs.get(epoch) or self._made.get(epoch)

    def move_to(self, epoch: int, seed: bytes) -> list[Action]:
        """Forget what was made for earlier epochs; have a key for the one after ``epoch``.

        ``seed`` is 32 fresh secret bytes. Must be durable before `announcement` is said.
        """
        before = dict(self._made)
        self._made = {each: secret for each, secret in before.items() if each >= epoch}
        if self.secret(epoch + 1) is None:
            self._made[epoch + 1] = seed
        if self._made == before:
            return []
        packed: bytes = msgpack.packb(self._made)
        return [Store(EPOCH_KEYS, packed)] if self._made else [Delete(EPOCH_KEYS)]

    def announcement(self, epoch: int) -> Mapping[str, Any]:
        """Return what a birth says of the key for ``epoch``; nothing if there is none yet."""
        secret = self.secret(epoch)
        if secret is None:
            return {}
        public = signing.epoch_public(secret)
        text = signing.endorsed(self._keys.task, epoch, public)
        endorsement = signing.sign(self._keys.identity, signing.EPOCH_KEY, text)
        return {"epoch": epoch, "key": public.hex(), "endorsement": endorsement.hex()}
