"""Payloads that no honest sender makes: random, mutated, misaddressed, out of every limit."""

import random
from collections.abc import Callable, Sequence

import msgpack

from protocol.codec import encode_update, open_envelope, seal
from protocol.errors import RemoteProtocolError
from protocol.identity import Signer
from protocol.messages import SIGNATURE_BYTES, WIRE_VERSION, Envelope, Update
from tests.support.messages import KINDS

#: Values that fields are probed with.
ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1,
    65_536,
    (1 << 40) + 1,
    (1 << 63),
    (1 << 64) - 1,
    -(1 << 63),
    1.5,
    float("nan"),
    "",
    "x" * 70,
    "dense/float32",
    "randk-0.5/int8",
    b"",
    b"\xff" * 16,
    b"\0" * 32,
    [],
    [0, 1],
    [[[[]]]],
    [b"\1" * 16] * 3,
)
NAMES = ("sim", "other", "", "_aggregator", "a", "b", "x" * 64)


def signed(payload: bytes, signer: Signer, topic: str, sender: str, counter: int) -> bytes:
    """Return it in an envelope of ``sender`` as it ought to be; what has none as it is."""
    try:
        found = open_envelope(payload)
    except RemoteProtocolError:
        return payload
    empty = bytes(SIGNATURE_BYTES)
    right = Envelope(found.kind, "sim", sender, counter, found.body, signer.key_id, empty)
    unsigned = seal(right)[:-SIGNATURE_BYTES]
    return unsigned + signer.on(topic)(unsigned)


class Garbage:
    """Draws payloads from one seed; ``honest`` are payloads to mutate and take parts from."""

    def __init__(self, seed: int, honest: Sequence[bytes]) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a sample of cases, not a secret
        self._honest = list(honest) or [b"\x90"]
        self._kinds: tuple[Callable[[], bytes], ...] = (
            self.noise,
            self.flipped,
            self.flipped,
            self.cut,
            self.stretched,
            self.spliced,
            self.odd_fields,
            self.odd_envelope,
            self.odd_update,
        )

    def payload(self) -> bytes:
        return self._kinds[self.below(len(self._kinds))]()

    def below(self, bound: int) -> int:
        return self._rng.randrange(bound)

    def noise(self) -> bytes:
        return self._rng.randbytes(self.below(80))

    def one(self) -> bytes:
        return self._honest[self.below(len(self._honest))]

    def flipped(self) -> bytes:
        """An honest payload with a few other bytes, near its head more often than not."""
        data = bytearray(self.one())
        for _ in range(1 + self.below(3)):
            if data:
                reach = min(len(data), 90) if self.below(4) else len(data)
                data[self.below(reach)] = self.below(256)
        return bytes(data)

    def cut(self) -> bytes:
        data = self.one()
        return data[: self.below(len(data) + 1)]

    def stretched(self) -> bytes:
        data = self.one()
        at = self.below(len(data) + 1)
        return data[:at] + self._rng.randbytes(1 + self.below(9)) + data[at:]

    def spliced(self) -> bytes:
        first, second = self.one(), self.one()
        return first[: self.below(len(first) + 1)] + second[self.below(len(second) + 1) :]

    def odd(self) -> object:
        return ODD[self.below(len(ODD))]

    def odd_fields(self) -> bytes:
        """A good envelope around a message whose fields are anything."""
        kind = list(KINDS.values())[self.below(len(KINDS))]
        fields = [self.odd() for _ in range(1 + self.below(12))]
        envelope = Envelope(kind, "sim", self.sender(), self.below(1 << 40), msgpack.packb(fields))
        return seal(envelope)

    def odd_envelope(self) -> bytes:
        version = WIRE_VERSION if self.below(2) else self.odd()
        fields = [self.odd() for _ in range(self.below(9))]
        packed: bytes = msgpack.packb([version, *fields])
        return packed

    def odd_update(self) -> bytes:
        """What would be inside chunks, on its own."""
        body = self._rng.randbytes(self.below(60))
        codec = ("dense/float32", "topk-0.5/int8", "?")[self.below(3)]
        return encode_update(Update(self.below(4), codec, self.below(9), body))

    def sender(self) -> str:
        return NAMES[self.below(len(NAMES))] or "_aggregator"
