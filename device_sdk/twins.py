"""Whether a copy of this medium takes part under the same id, and which of the two gives way."""

from protocol.errors import RemoteProtocolError
from protocol.json_objects import read_object


class Twins:
    """``boot`` is drawn at each start and in every birth of it: that of a twin is another.

    Two that take one connection from each other again and again never end; but a broker that keeps
    dying looks the same, so nobody gives way who has not heard a twin's birth after its own. If
    both have, the one with the smaller boot does: not both, or nobody would be there.
    """

    def __init__(self, boot: str) -> None:
        self.gives_way = False
        self._boot = boot
        self._is_born = False

    def hear(self, birth: bytes, *, retained: bool) -> None:
        """A birth of this id came: a twin's, if ours was said and another is kept in its place."""
        boot = _boot_of(birth)
        if retained:
            self.gives_way = self._is_born and boot > self._boot
        self._is_born = self._is_born or boot == self._boot


def _boot_of(birth: bytes) -> str:
    """Return the boot of a birth, or nothing if it is none: anybody may have said it."""
    try:
        boot = read_object(birth, "a birth").get("boot")
    except RemoteProtocolError:
        return ""
    return boot if isinstance(boot, str) else ""
