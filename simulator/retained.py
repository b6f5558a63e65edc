"""What a broker keeps retained: the newest payload of a topic, for whoever subscribes later."""

from collections.abc import Iterator, MutableMapping

from simulator.topic_tree import TopicTree


class Retained(MutableMapping[str, bytes]):
    """Payloads by topic, in the order in which the topics were first retained."""

    def __init__(self) -> None:
        self._payloads: dict[str, bytes] = {}
        self._tree: TopicTree[tuple[int, str]] = TopicTree()
        self._num_put = 0

    def __getitem__(self, topic: str) -> bytes:
        return self._payloads[topic]

    def __setitem__(self, topic: str, payload: bytes) -> None:
        if topic not in self._payloads:
            self._num_put += 1
            self._tree.put(topic, (self._num_put, topic))
        self._payloads[topic] = payload

    def __delitem__(self, topic: str) -> None:
        del self._payloads[topic]
        self._tree.pop(topic)

    def __iter__(self) -> Iterator[str]:
        return iter(self._payloads)

    def __len__(self) -> int:
        return len(self._payloads)

    def taken(self, topic_filter: str) -> list[str]:
        """Return the topics that a filter takes, in order."""
        if "+" not in topic_filter and "#" not in topic_filter:
            return [topic_filter] if topic_filter in self._payloads else []
        return [topic for _, topic in sorted(self._tree.taken(topic_filter))]
