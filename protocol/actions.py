"""What a state machine asks its shell to do, on both sides of the bus.

Each side adds actions of its own. The shell performs a list in order, and nothing leaves before the
stores ahead of it are durable. A message is acknowledged to the broker when the actions it led to
have been performed, so that no machine has to say so.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a payload. ``qos`` 0 is for what may be lost."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask the broker for topics (again: it is idempotent).

    ``retained``: so is all that is said there, and nothing is missed between two subscriptions.
    """

    filters: tuple[str, ...]
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ask for these topics no longer."""

    filters: tuple[str, ...]
