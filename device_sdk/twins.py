"""Whether a copy of this medium takes part under the same id: two that fight over it never end."""


class Twins:
    """``boot`` is in every birth of this start, and in no other's; ``is_there``: a copy is.

    Without that, connections that end quickly again and again are a broker that keeps dying.
    """

    def __init__(self, boot: str) -> None:
        self.is_there = False
        self._boot = boot.encode()
        self._is_born = False

    def hear(self, birth: bytes, *, retained: bool) -> None:
        """A birth of this id came: a twin's, if ours was said and another is kept in its place."""
        is_ours = self._boot in birth
        if retained:
            self.is_there = self._is_born and not is_ours
        self._is_born = self._is_born or is_ours
