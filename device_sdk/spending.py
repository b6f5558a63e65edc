"""What a device's updates have cost it so far, by its own count: it need not trust the aggregator.

An aggregator might learn sums that it makes no version of, and count none of them. A device counts
each update that it masks, before it leaves, and stops where the signed roster says so. Sans-IO.
"""

from collections.abc import Mapping
from typing import Final

from device_sdk.actions import Action, Store
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.secagg.parameters import Parameters

#: Where it is stored: billionths of rho (`protocol.noise`), in decimal digits.
SPENT: Final = "privacy-spent"


class Spending:
    """Of one task, for good: it outlives epochs. ``stored`` is what storage holds."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self._spent = int(stored.get(SPENT, b"0"))
        self._unsaid = False

    @property
    def spent_nano(self) -> int:
        """What was spent, in billionths of rho."""
        return self._spent

    def is_over(self, parameters: Parameters) -> bool:
        """Whether another update would cost more than this roster allows."""
        after = self._spent + parameters.cost_nano
        return parameters.is_private and after > parameters.budget_nano

    def check(self, parameters: Parameters) -> None:
        """Raise RemoteProtocolError (``privacy_spent``) if `is_over`."""
        if self.is_over(parameters):
            reason = refusals.PRIVACY_SPENT
            raise RemoteProtocolError(reason, refusals.MEANING[reason])

    def spend(self, parameters: Parameters) -> None:
        """Count an update. Raises as `check`, and then has counted nothing."""
        self.check(parameters)
        self._spent += parameters.cost_nano
        self._unsaid = parameters.is_private

    def kept(self) -> list[Action]:
        """Return what must be durable before that update leaves."""
        unsaid, self._unsaid = self._unsaid, False
        return [Store(SPENT, b"%d" % self._spent)] if unsaid else []
