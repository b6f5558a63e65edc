"""What a holder has answered in this epoch: a mask goes into one answer, ever.

The newest answers are kept whole, so that the same request gets the same bytes. Of older ones only
the masks are remembered, in a window for each start of a dealer as in the replay protection of
IPsec (RFC 4303, section 3.4.3): a dealer numbers the masks of one start upwards and has few at a
time, so that one far below the newest used can only be an old one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgpack

from device_sdk.actions import Action, Delete, Store
from protocol.messages import COUNTER_START_BITS
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.requests import Asked, named_masks

#: Before the keys of answers in storage, and where the windows are.
ANSWER: Final = "answer-"
USED: Final = "used-masks"
#: So many answers are kept whole, at least; more go eight at a time.
MAX_ANSWERS: Final = 32
_FOLDED_AT_ONCE: Final = 8
WINDOW: Final = 64
#: Starts of all dealers together that are remembered in an epoch; beyond, nothing is answered.
MAX_WINDOWS: Final = 4_096

#: A mask: its dealer's index, and its counter.
MaskName = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer given: the signed request, its hash, and the elements sent.

    ``masks`` went into it, ``buffer`` are all that the request names.
    """

    number: int
    request_hash: bytes
    request: RecoveryRequest
    elements: bytes
    masks: tuple[MaskName, ...]
    buffer: frozenset[MaskName]


class Answers:
    """Answers of one epoch; ``stored`` is what storage holds, ``roster_hash`` says which epoch."""

    def __init__(self, roster_hash: bytes, stored: Mapping[str, bytes]) -> None:
        self._roster_hash = roster_hash
        self._windows: dict[tuple[int, int], tuple[int, int]] = {}
        self._answers: dict[bytes, Answer] = {}
        self._by_mask: dict[MaskName, Answer] = {}
        self._binding: dict[MaskName, Answer] = {}
        if USED in stored:
            self._read_windows(stored[USED])
        for key in sorted(stored):
            if key.startswith(ANSWER):
                self._read_answer(key, stored[key])

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers.values())

    @property
    def keys(self) -> frozenset[str]:
        """Where in storage they are."""
        return frozenset({USED, *(_key(answer.number) for answer in self)})

    def given(self, request_hash: bytes) -> Answer | None:
        """Return the answer that a request got."""
        return self._answers.get(request_hash)

    def with_mask(self, mask: MaskName) -> Answer | None:
        """Return the answer that a mask went into, if it is one of the newest."""
        return self._by_mask.get(mask)

    def is_used(self, mask: MaskName) -> bool:
        """Whether a mask went into an answer, or is too old for it ever to do."""
        start, number = _split(mask)
        newest, bits = self._windows.get(start, (-1, 0))
        behind = newest - number
        return behind >= WINDOW or (behind >= 0 and bool(bits >> behind & 1))

    def has_room(self, asked: Asked) -> bool:
        """Whether so many more can be remembered."""
        return len(self._windows) + len(asked.buffer) <= MAX_WINDOWS

    def overlapping(self, asked: Asked) -> tuple[MaskName, Answer | None] | None:
        """Return a mask of this buffer that belongs to another, and an answer that says so.

        None: there is no such mask. The answer may be too old to be known.
        """
        buffer = frozenset(asked.buffer.items())
        for mask in sorted(buffer):
            earlier = self._binding.get(mask)
            if earlier is None and self.is_used(mask):
                return mask, None
            if earlier is not None and earlier.buffer != buffer:
                return mask, earlier
        return None

    def add(
        self, request_hash: bytes, request: RecoveryRequest, elements: bytes, asked: Asked
    ) -> tuple[Answer, list[Action]]:
        """Take a new answer; what is returned first must be durable before it is sent."""
        number = 1 + max((answer.number for answer in self), default=0)
        masks, buffer = tuple(asked.masks.items()), frozenset(asked.buffer.items())
        answer = Answer(number, request_hash, request, elements, masks, buffer)
        self._note(answer)
        return answer, [Store(_key(number), self._pack(answer)), *self._fold_old(buffer)]

    def _note(self, answer: Answer) -> None:
        self._answers[answer.request_hash] = answer
        self._by_mask.update(dict.fromkeys(answer.masks, answer))
        self._binding.update(dict.fromkeys(answer.buffer, answer))
        for mask in answer.masks:
            self._use(mask)

    def _use(self, mask: MaskName) -> None:
        start, number = _split(mask)
        newest, bits = self._windows.get(start, (-1, 0))
        if number > newest:
            shift = min(number - newest, WINDOW)
            newest, bits = number, bits << shift & (1 << WINDOW) - 1
        if newest - number < WINDOW:
            bits |= 1 << newest - number
        self._windows[start] = (newest, bits)

    def _fold_old(self, newest: frozenset[MaskName]) -> list[Action]:
        """Keep of the oldest answers only which masks are used; those of the newest buffer stay."""
        if len(self._answers) < MAX_ANSWERS + _FOLDED_AT_ONCE:
            return []
        old = [answer for answer in self if answer.buffer != newest][:_FOLDED_AT_ONCE]
        if not old:
            return []
        buffers = {answer.buffer for answer in old}
        oldest = [answer for answer in self if answer.buffer in buffers]
        for answer in oldest:
            del self._answers[answer.request_hash]
            for mask in answer.buffer:
                self._by_mask.pop(mask, None)
                self._binding.pop(mask, None)
                self._use(mask)
        windows = [[*start, *window] for start, window in self._windows.items()]
        packed: bytes = msgpack.packb([self._roster_hash, windows])
        return [Store(USED, packed), *(Delete(_key(answer.number)) for answer in oldest)]

    def _pack(self, answer: Answer) -> bytes:
        packed: bytes = msgpack.packb(
            [
                self._roster_hash,
                answer.request_hash,
                answer.request.body,
                answer.request.signature,
                answer.elements,
                [list(mask) for mask in answer.masks],
            ]
        )
        return packed

    def _read_answer(self, key: str, data: bytes) -> None:
        roster_hash, request_hash, body, signature, elements, masks = msgpack.unpackb(data)
        if roster_hash != self._roster_hash:
            return
        number = int(key.removeprefix(ANSWER))
        request = RecoveryRequest(body, signature)
        used = tuple((dealer, counter) for dealer, counter in masks)
        buffer = frozenset(named_masks(request).items())
        self._note(Answer(number, request_hash, request, elements, used, buffer))

    def _read_windows(self, data: bytes) -> None:
        roster_hash, windows = msgpack.unpackb(data)
        if roster_hash != self._roster_hash:
            return
        for dealer, start, newest, bits in windows:
            self._windows[dealer, start] = (newest, bits)


def _key(number: int) -> str:
    return f"{ANSWER}{number:010d}"


def _split(mask: MaskName) -> tuple[tuple[int, int], int]:
    """A mask's dealer and start, and its number in that start."""
    dealer, counter = mask
    return (dealer, counter >> COUNTER_START_BITS), counter & (1 << COUNTER_START_BITS) - 1
