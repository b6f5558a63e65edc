"""What comes in at the aggregator: from whom it is, and whether it is new.

Every message of a device passes here: its envelope, the key that signed it, its counter. Which key
is a device's, the operator says: in a certificate, which the device sends along, or in a roster.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from aggregator.records import DocumentRecord
from protocol import refusals
from protocol.codec import open_envelope, read
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import (
    Certificate,
    Signer,
    check_envelope,
    key_id,
    open_certificate,
    unseal,
)
from protocol.messages import KEY_BYTES, CheckIn, Envelope
from protocol.topics import Address, Kind, Topics

#: Documents of devices' certificates; the rest of the key is the device.
CERTIFICATE: Final = "certificate/"

M = TypeVar("M")


@dataclass(frozen=True, slots=True, repr=False)
class Trust:
    """What the aggregator signs with, and whom it believes.

    ``secret`` is its own key, ``enrolment_key`` the operator's public one. Unless signatures are
    ``required``, a device that has shown no certificate is believed without.
    """

    secret: bytes
    enrolment_key: bytes
    required: bool = True

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES or len(self.enrolment_key) != KEY_BYTES:
            raise ConfigError(f"identity: keys have {KEY_BYTES} bytes")

    def signer(self, prefix: str) -> Signer:
        """Return what signs the aggregator's messages."""
        return Signer(self.secret, prefix)


@dataclass(frozen=True, slots=True)
class Heard(Generic[M]):
    """A message that may be acted on. ``identity`` has signed it; empty: nobody has.

    ``record`` must be stored: the certificate by which the device is known from now on.
    """

    message: M
    counter: int
    identity: bytes = b""
    record: DocumentRecord | None = None


class Gate:
    """One task's. ``enrolled`` names the identity that a roster gives a device, or none.

    Without ``trust`` nothing need be signed, but what the members of a secure task say beyond
    check-ins is checked by those who take it, by `Heard.identity`.
    """

    def __init__(
        self,
        topics: Topics,
        trust: Trust | None,
        documents: Mapping[str, bytes],
        enrolled: Callable[[str], bytes] = lambda _: b"",
    ) -> None:
        self._topics = topics
        self._trust = trust
        self._enrolled = enrolled
        self._kept = {
            key.removeprefix(CERTIFICATE): data
            for key, data in documents.items()
            if key.startswith(CERTIFICATE) and data
        }
        self._certificates: dict[str, Certificate] = {}
        self._newest: dict[tuple[str, Kind], int] = {}

    def open(
        self, topic: str, address: Address, payload: bytes, allowed: Collection[type[M]]
    ) -> Heard[M]:
        """Return the message in ``payload``, one of the classes ``allowed`` here.

        Raises RemoteProtocolError: ``malformed``, ``wire_version``, ``wrong_task``,
        ``wrong_sender``, ``wrong_kind``; ``bad_signature``; ``unknown_key`` if the device must send
        its certificate; ``replayed``.
        """
        envelope, device = open_envelope(payload), address.device
        message = read(envelope, allowed, task=self._topics.task, sender=device)
        shown = self._shown(device, message)
        identity = self._identity(device) if shown is None else shown.identity
        if not self._must_check(device, envelope, identity):
            return Heard(message, envelope.counter)
        check_envelope(identity, payload, topic=topic, prefix=self._topics.prefix)
        if not isinstance(message, CheckIn):  # `Fleet.is_old` knows which installation it is of
            self._check_new(device, address.kind, envelope.counter)
        record = None
        if shown is not None and isinstance(message, CheckIn):
            self._certificates[device] = shown
            record = DocumentRecord(CERTIFICATE + device, message.certificate)
        return Heard(message, envelope.counter, identity, record)

    @property
    def is_strict(self) -> bool:
        """Whether what passes is signed: what does not pass may then be anybody's."""
        return self._trust is not None and self._trust.required

    def unseal(self, data: bytes, lease_id: bytes) -> bytes:
        """Return the update sealed for a lease. Raises RemoteProtocolError (``malformed``)."""
        if self._trust is None:
            raise RemoteProtocolError(refusals.MALFORMED, "sealed, and this aggregator has no key")
        return unseal(data, self._trust.secret, lease_id)

    # --- whose key it is ---------------------------------------------------------------------

    def _must_check(self, device: str, envelope: Envelope, identity: bytes) -> bool:
        """Whether it is signed by a key that can be known. Raises if it ought to be."""
        required = self._trust is not None and self._trust.required
        if not envelope.signature and (required or self._is_certified(device)):
            raise RemoteProtocolError(refusals.BAD_SIGNATURE, "not signed")
        if not envelope.signature or not (identity or required):
            return False
        if not identity or envelope.key_id not in (b"", key_id(identity)):
            raise RemoteProtocolError(refusals.UNKNOWN_KEY, refusals.MEANING[refusals.UNKNOWN_KEY])
        return True

    def _identity(self, device: str) -> bytes:
        known = self._certificate(device)
        return self._enrolled(device) if known is None else known.identity

    def _is_certified(self, device: str) -> bool:
        return self._trust is not None and self._certificate(device) is not None

    def _certificate(self, device: str) -> Certificate | None:
        """Return what a device is known by; what was kept is opened when it is wanted."""
        data = self._kept.pop(device, b"")
        if data and self._trust is not None:
            try:
                self._certificates[device] = open_certificate(data, self._trust.enrolment_key)
            except RemoteProtocolError:  # of another operator's key: the device must show a new one
                return None
        return self._certificates.get(device)

    def _shown(self, device: str, message: object) -> Certificate | None:
        """Return a certificate that is shown and new. Raises RemoteProtocolError."""
        if not isinstance(message, CheckIn) or not message.certificate or self._trust is None:
            return None
        shown = open_certificate(message.certificate, self._trust.enrolment_key)
        if (shown.task, shown.device) != (self._topics.task, device):
            raise RemoteProtocolError(
                refusals.BAD_SIGNATURE, f"the certificate of {shown.device} in {shown.task}"
            )
        known = self._certificate(device)
        if known == shown:
            return None
        if known is not None and shown.serial <= known.serial:
            raise RemoteProtocolError(
                refusals.BAD_SIGNATURE, f"certificate {shown.serial}, and {known.serial} is known"
            )
        return shown

    def _check_new(self, device: str, kind: Kind, counter: int) -> None:
        if counter <= self._newest.get((device, kind), -1):
            raise RemoteProtocolError(refusals.REPLAYED, refusals.MEANING[refusals.REPLAYED])
        self._newest[device, kind] = counter
