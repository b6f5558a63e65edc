"""What comes in at a device: from whom it is, and whether it is new.

A device with keys believes the aggregator's signature and nobody else. Chunks of models need none:
the hash in a signed lease covers them. What is retained can be brought again, but nothing older
than what was heard. Across reboots that holds from the last training on: a lease that was trained
for is not trained for again, which would cost the update it had, and privacy.
"""

from collections.abc import Mapping
from typing import Final

import msgpack

from device_sdk.actions import Action, Store
from protocol import refusals
from protocol.codec import open_envelope
from protocol.errors import RemoteProtocolError
from protocol.messages import Envelope
from protocol.topics import Kind, Topics

#: In storage: the counter of the newest plan, the newest version that a manifest named, and the
#: counter of what came last for this device alone.
HEARD: Final = "heard"

_UNSIGNED: Final = frozenset({Kind.MODEL, Kind.DIFFERENCE, Kind.SHARE})


class Gate:
    """``aggregator`` is the public key of the task's aggregator; empty: nothing is checked."""

    def __init__(
        self, topics: Topics, stored: Mapping[str, bytes], aggregator: bytes = b""
    ) -> None:
        self._topics = topics
        self._aggregator = aggregator
        self._newest: dict[Kind, int] = {}
        self._stored: tuple[int, int, int] = (-1, -1, -1)
        if aggregator and HEARD in stored:
            plan, version, *told = msgpack.unpackb(stored[HEARD])
            self._stored = (plan, version, told[0] if told else -1)
        self._newest[Kind.PLAN], self._version, self._newest[Kind.IN] = self._stored

    def open(self, topic: str, kind: Kind, payload: bytes) -> Envelope:
        """Return the envelope of a message that may be acted on.

        Raises RemoteProtocolError: ``malformed``, ``wire_version``, ``bad_signature``,
        ``unknown_key``, ``replayed``.
        """
        envelope = open_envelope(payload)
        if not self._aggregator or kind in _UNSIGNED:
            return envelope
        self._check(envelope, payload, topic)
        newest = self._newest.get(kind, -1)
        if envelope.counter < newest or (kind is Kind.IN and envelope.counter == newest):
            raise RemoteProtocolError(refusals.REPLAYED, refusals.MEANING[refusals.REPLAYED])
        self._newest[kind] = envelope.counter
        return envelope

    def check_version(self, version: int) -> None:
        """Raise RemoteProtocolError (``replayed``) for a manifest older than one that was heard."""
        if not self._aggregator:
            return
        if version < self._version:
            raise RemoteProtocolError(
                refusals.REPLAYED, f"version {version}, and {self._version} was heard of"
            )
        self._version = version

    def kept(self) -> list[Action]:
        """Return what must be stored so that nothing older is believed after a reboot."""
        heard = (self._newest[Kind.PLAN], self._version, self._newest[Kind.IN])
        if not self._aggregator or heard == self._stored:
            return []
        self._stored = heard
        return [Store(HEARD, msgpack.packb(heard))]

    def _check(self, envelope: Envelope, payload: bytes, topic: str) -> None:
        from protocol import identity  # noqa: PLC0415 - only devices with keys wait for it

        if not envelope.signature:
            raise RemoteProtocolError(refusals.BAD_SIGNATURE, "not signed")
        if envelope.key_id not in (b"", identity.key_id(self._aggregator)):
            raise RemoteProtocolError(refusals.UNKNOWN_KEY, "signed by another aggregator's key")
        identity.check_envelope(self._aggregator, payload, topic=topic, prefix=self._topics.prefix)
