"""Numbers as a person reads them."""


def many(number: int, noun: str) -> str:
    """Return how many of a thing there are, for a noun that takes an s: 1 update, 2 updates."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
