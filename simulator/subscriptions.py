"""Who wants which topics: exact filters by name, those with wildcards in a tree."""

from itertools import chain

from simulator.topic_tree import TopicTree

_Clients = dict[str, None]


class Subscriptions:
    """Clients by filter, in the order in which filters, and clients of one filter, came."""

    def __init__(self) -> None:
        self._clients: dict[str, _Clients] = {}
        self._tree: TopicTree[tuple[int, _Clients]] = TopicTree()
        self._num_put = 0

    def add(self, client_id: str, topic_filter: str) -> None:
        """Subscribe a client, again or for the first time."""
        clients = self._clients.get(topic_filter)
        if clients is None:
            clients = self._clients[topic_filter] = {}
            if _is_wild(topic_filter):
                self._num_put += 1
                self._tree.put(topic_filter, (self._num_put, clients))
        clients[client_id] = None

    def remove(self, client_id: str, topic_filter: str) -> None:
        """End a subscription, if there is one."""
        clients = self._clients.get(topic_filter, {})
        clients.pop(client_id, None)
        if clients or topic_filter not in self._clients:
            return
        del self._clients[topic_filter]
        if _is_wild(topic_filter):
            self._tree.pop(topic_filter)

    def of(self, topic: str) -> list[str]:
        """Return every client that is to get a topic, once."""
        exact = self._clients.get(topic, ())
        wild = list(self._tree.taking(topic))
        if not wild:
            return list(exact)
        wild.sort(key=_number)
        return list(dict.fromkeys(chain(exact, *(clients for _, clients in wild))))


def _number(found: tuple[int, _Clients]) -> int:
    return found[0]


def _is_wild(topic_filter: str) -> bool:
    return "+" in topic_filter or "#" in topic_filter
