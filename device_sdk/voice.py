"""How a device speaks: each message in an envelope with its name and a growing counter."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.actions import Publish
from protocol.codec import encode
from protocol.messages import COUNTER_START_BITS
from protocol.topics import Topics

if TYPE_CHECKING:
    from protocol.identity import Signer
    from protocol.secagg.messages import AnyMessage


class Voice:
    """``num_starts`` counts the device's starts, this one included.

    ``signer`` signs all it says.
    """

    def __init__(
        self, topics: Topics, device: str, num_starts: int, signer: "Signer | None" = None
    ) -> None:
        self._topics = topics
        self._signer = signer
        self._device = device
        self.count_from(num_starts)

    def count_from(self, num_starts: int) -> None:
        """Count as after so many starts."""
        self._counter = num_starts << COUNTER_START_BITS

    def say(self, topic: str, message: "AnyMessage") -> Publish:
        """Return a message for a topic."""
        signer = self._signer
        if signer is None:
            return self.whisper(topic, message)
        return self._say(topic, message, signer.on(topic), signer.key_id)

    def whisper(self, topic: str, message: "AnyMessage") -> Publish:
        """Return a message that is not signed: what is in it proves itself."""
        return self._say(topic, message, None, b"")

    def tell(self, message: "AnyMessage") -> Publish:
        """Return a message for the aggregator."""
        return self.say(self._topics.out(self._device), message)

    def _say(
        self,
        topic: str,
        message: "AnyMessage",
        sign: Callable[[bytes], bytes] | None,
        key_id: bytes,
    ) -> Publish:
        self._counter += 1
        payload = encode(
            message,
            task=self._topics.task,
            sender=self._device,
            counter=self._counter,
            sign=sign,
            key_id=key_id,
        )
        return Publish(topic, payload)
