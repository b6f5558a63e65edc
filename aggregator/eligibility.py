"""Which devices a lease may be given to: never to some, and not yet to others."""

from aggregator.parts import Parts
from aggregator.records import Standing
from aggregator.wording import many
from protocol import refusals
from protocol.messages import CheckIn


class Eligibility:
    """In one task."""

    def __init__(self, parts: Parts) -> None:
        self._codec = parts.codec
        self._conduct = parts.conduct
        self._downlink = parts.downlink
        self._granting = parts.granting
        self._leases = parts.leases
        self._min_samples = parts.config.min_samples
        self._participation = parts.memory.participation
        self._privacy = parts.privacy
        self._secure = parts.secure

    def objection(self, device: str, check_in: CheckIn) -> tuple[str, str]:
        """Return why a device gets no lease whatever comes, and more of it; empty: nothing."""
        if self._conduct.standing(device) is not Standing.ADMITTED:
            return refusals.QUARANTINED, ""
        if self._secure is not None and (reason := self._secure.standing(device)):
            return reason, ""
        words = frozenset(check_in.codecs)
        if not (self._granting.serves(words) and self._downlink.needs <= words):
            missing = sorted((self._codec.words | self._downlink.needs) - words)
            detail = f"this task needs {', '.join(missing)}: update the device's SDK"
            return refusals.WRONG_CODEC, detail
        given, least = check_in.num_samples, self._min_samples
        if 0 < given < least:
            detail = f"{many(given, 'sample')} at hand: an update of this task needs {least}"
            return refusals.FEW_SAMPLES, detail
        return (refusals.PRIVACY_SPENT, "") if self._privacy.is_spent(device) else ("", "")

    def is_ready(self, device: str, now: float) -> bool:
        """Whether its masks are, and it had no more than its share while others train."""
        if self._secure is not None and not self._secure.is_ready(device, now):
            return False
        return self._leases.num_active == 0 or self._participation.may_train(device)
