"""What a session is made of: every part of one device in one task, put together.

Nothing is decided here. `asking`, `preparing` and `delivery` are given all parts, and name in their
constructors those that they use.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from device_sdk.alarm import Alarm
from device_sdk.check_ins import CheckIns
from device_sdk.draws import Draws
from device_sdk.gate import Gate
from device_sdk.outgoing import Outgoing
from device_sdk.pending import BOOTS
from device_sdk.presence import Presence
from device_sdk.states import Machine, State
from device_sdk.voice import Voice
from device_sdk.work import Work
from protocol.stream import derive
from protocol.topics import Topics

if TYPE_CHECKING:
    from device_sdk.identity import Keys
    from device_sdk.secagg import Member


class Parts:
    """Arguments as `Session` has them. ``num_starts`` counts the device's, this one included.

    ``seed`` is what training, rounding and sealing draw from; ``seals``: updates are sealed.
    """

    def __init__(
        self,
        topics: Topics,
        device: str,
        install_id: bytes,
        *,
        stored: Mapping[str, bytes],
        seed: bytes,
        birth: Mapping[str, Any],
        keys: "Keys | None",
        seal: bool,
        stock: int,
        max_share_bytes: int,
    ) -> None:
        self.topics = topics
        self.device = device
        self.install_id = install_id
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.keys = keys
        self.seals = seal and keys is not None
        self.num_starts = int.from_bytes(stored.get(BOOTS, b""), "little") + 1
        self.voice = self._make_voice(keys)
        self.gate = Gate(topics, stored, b"" if keys is None else keys.aggregator)
        self.work = Work(stored)
        self.outgoing = Outgoing(topics.task, stored)
        self.machine = Machine(State.IDLE if self.outgoing.pending is None else State.REPORTING)
        masked = keys is not None and keys.masked
        certificate = b"" if keys is None else keys.certificate
        self.check_ins = CheckIns(install_id, certificate, masked=masked)
        self.member: Member | None = None
        if keys is not None and keys.masked:
            self.member = self._join(keys, stored, stock, max_share_bytes)
        self.draws = Draws(self.seed)
        self.alarm = Alarm(self.draws)
        self.presence = Presence(topics, device, birth, self.member)

    def _make_voice(self, keys: "Keys | None") -> Voice:
        if keys is None:
            return Voice(self.topics, self.device, self.num_starts)
        from protocol.identity import Signer  # noqa: PLC0415 - only devices with keys wait for it

        signer = Signer(keys.identity, self.topics.prefix)
        return Voice(self.topics, self.device, self.num_starts, signer)

    def _join(
        self, keys: "Keys", stored: Mapping[str, bytes], stock: int, max_share_bytes: int
    ) -> "Member":
        from device_sdk.secagg import Member  # noqa: PLC0415 - only secure tasks wait for it

        # What masks are made of must not be found from a seed that stays in memory.
        own, self.seed = derive(self.seed, "member"), derive(self.seed, "session")
        return Member(
            self.topics,
            keys,
            stored=stored,
            seed=own,
            stock=stock,
            max_share_bytes=max_share_bytes,
            voice=self.voice,
            counts=self.counts,
        )
