"""What MQTT allows as a topic and as a topic filter."""

from typing import Final

_MAX_BYTES: Final = 65_535


def check_topic(topic: str) -> None:
    """Raise ValueError unless a message can be published to this topic."""
    _check_length(topic)
    if "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r}: a topic has no wildcards")


def check_filter(topic_filter: str) -> None:
    """Raise ValueError unless this is a filter: ``+`` for one level, ``#`` for all below."""
    _check_length(topic_filter)
    *levels, last = topic_filter.split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        raise ValueError(f"{topic_filter!r}: # stands alone, at the end")
    if any("+" in level and level != "+" for level in [*levels, last]):
        raise ValueError(f"{topic_filter!r}: + stands alone between slashes")


def _check_length(text: str) -> None:
    if not text or "\0" in text or len(text.encode()) > _MAX_BYTES:
        raise ValueError(f"{text[:40]!r}: 1 to {_MAX_BYTES} bytes, none of them zero")
