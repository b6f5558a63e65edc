"""Topics and filters level by level, so that a look-up visits what matches and little else."""

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class _Node(Generic[V]):
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] | None = None
        self.value: V | None = None

    @property
    def is_empty(self) -> bool:
        return self.value is None and not self.children

    def child(self, level: str) -> "_Node[V]":
        if self.children is None:
            self.children = {}
        found = self.children.get(level)
        if found is None:
            found = self.children[level] = _Node()
        return found


class TopicTree(Generic[V]):
    """Values (None: none) by topic or by filter."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def put(self, path: str, value: V) -> None:
        """Keep a value under a path, in place of any other."""
        node = self._root
        for level in path.split("/"):
            node = node.child(level)
        node.value = value

    def pop(self, path: str) -> None:
        """Forget what is under a path, if anything, and the levels that only led there."""
        way: list[tuple[_Node[V], str]] = []
        node = self._root
        for level in path.split("/"):
            if node.children is None or level not in node.children:
                return
            child = node.children[level]
            way.append((node, level))
            node = child
        node.value = None
        for parent, level in reversed(way):
            if parent.children is None or not parent.children[level].is_empty:
                return
            del parent.children[level]

    def taking(self, topic: str) -> Iterator[V]:
        """Yield the values of all filters that take a topic."""
        nodes = [self._root]
        for level in topic.split("/"):
            found: list[_Node[V]] = []
            for node in nodes:
                for name in (level, "+", "#"):
                    child = (node.children or {}).get(name)
                    if child is not None and name != "#":
                        found.append(child)
                    elif child is not None and child.value is not None:
                        yield child.value
            nodes = found
        for node in nodes:
            if node.value is not None:
                yield node.value
            rest = (node.children or {}).get("#")
            if rest is not None and rest.value is not None:
                yield rest.value

    def taken(self, topic_filter: str) -> Iterator[V]:
        """Yield the values of all topics that a filter takes."""
        nodes = [self._root]
        for level in topic_filter.split("/"):
            if level == "#":
                yield from _below(nodes)
                return
            if level == "+":
                nodes = [child for node in nodes for child in (node.children or {}).values()]
            else:
                nodes = [
                    child
                    for node in nodes
                    if (child := (node.children or {}).get(level)) is not None
                ]
        for node in nodes:
            if node.value is not None:
                yield node.value


def _below(nodes: list[_Node[V]]) -> Iterator[V]:
    """Yield the values of nodes and of all that is below them."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.value is not None:
            yield node.value
        waiting += (node.children or {}).values()
