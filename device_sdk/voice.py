"""How a device speaks: each message in an envelope with its name and a growing counter."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.actions import Publish
from protocol.codec import encode
from protocol.messages import COUNTER_START_BITS
from protocol.topics import Topics

if TYPE_CHECKING:
    from protocol.secagg.messages import AnyMessage


class Voice:
    """``num_starts`` counts the device's starts, this one included."""

    def __init__(self, topics: Topics, device: str, num_starts: int) -> None:
        self._topics = topics
        self._device = device
        self._counter = num_starts << COUNTER_START_BITS

    def say(
        self, topic: str, message: "AnyMessage", sign: Callable[[bytes], bytes] | None = None
    ) -> Publish:
        """Return a message for a topic; ``sign`` makes its signature."""
        self._counter += 1
        task, counter = self._topics.task, self._counter
        payload = encode(message, task=task, sender=self._device, counter=counter, sign=sign)
        return Publish(topic, payload)

    def tell(self, message: "AnyMessage", sign: Callable[[bytes], bytes] | None = None) -> Publish:
        """Return a message for the aggregator."""
        return self.say(self._topics.out(self._device), message, sign)
