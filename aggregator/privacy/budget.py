"""The privacy of one task as the coordinator sees it: who may still take part, and what was spent.

What is charged is charged with the commit that makes it public, whatever becomes of it after.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aggregator.actions import Action, Store
from aggregator.privacy.accounting import epsilon
from aggregator.privacy.central import Central
from aggregator.privacy.config import PrivacyConfig
from aggregator.privacy.ledger import Ledger
from aggregator.records import DocumentRecord

#: The document that holds the version at which privacy began; there is none while it is off.
SINCE: Final = "privacy-since"


class Budget:
    """Of one task. ``documents`` is what the store keeps; ``seed``: 32 secret bytes of this start.

    ``version`` is the newest there is. ``central`` bounds and noises the sums of plain buffers;
    None where devices do, or nobody. ``since`` is the version from which on all have been private.
    """

    def __init__(
        self, config: PrivacyConfig, documents: Mapping[str, bytes], seed: bytes, version: int = 0
    ) -> None:
        self._has_begun = SINCE in documents
        self.since = int(documents[SINCE]) if self._has_begun else version
        self.central = Central(config, documents, seed) if config.is_central else None
        self._config = config
        self._ledger = Ledger(documents)

    def start(self) -> list[Action]:
        """Return what is stored when the task starts: versions without noise are not forgotten."""
        if self._config.enabled == self._has_begun:
            return []
        data = b"%d" % self.since if self._config.enabled else b""
        return [Store(DocumentRecord(SINCE, data))]

    @property
    def given_up(self) -> str:
        """Return, for a person, what it means that ``[privacy]`` was taken out; empty: it was not.

        The ledger stays, so that this is known at every start from then on.
        """
        if self._config.enabled or not self._ledger.most:
            return ""
        return (
            "[privacy] was taken out of a task that had it: versions so far kept a device's data"
            f" to epsilon {round_up(self.epsilon):g} (delta {self._config.delta:g}) at most, those"
            " to come have no noise and promise nothing. What was spent is not forgotten: put"
            " [privacy] back, and it counts on"
        )

    def is_spent(self, device: str) -> bool:
        """Whether a device would go beyond its budget with another update."""
        config = self._config
        return config.enabled and self._ledger.spent(device) + config.cost > config.budget

    def released(self, devices: Iterable[str]) -> list[Action]:
        """Something was learned from one update of each of these devices: charge them.

        A device with n updates in it moves the sum n times as far. Returns what is stored.
        """
        if not self._config.enabled:
            return []
        cost = self._config.cost
        charged = self._ledger.charge(
            {device: count * count * cost for device, count in Counter(devices).items()}
        )
        return charged if self.central is None else [*charged, *self.central.counted()]

    @property
    def epsilon(self) -> float:
        """The epsilon of the device that has taken part most; of all others it is less."""
        return epsilon(self._ledger.most, self._config.delta)

    @property
    def num_spent(self) -> int:
        """How many devices have spent their budget."""
        return self._ledger.num_spent(self._config.budget - self._config.cost)

    def why_stopped(self, num_devices: int) -> str:
        """Return, for a person, who of so many gets no leases any more; empty: nobody is kept."""
        if not self._config.enabled or not self.num_spent:
            return ""
        who = f"{self.num_spent} of {num_devices} devices"
        return f"{who} have spent their epsilon of {self._config.epsilon:g}"

    def has_stopped(self, num_devices: int) -> bool:
        """Whether all of so many devices have spent their budgets: there will be no version."""
        return self._config.enabled and 0 < num_devices <= self.num_spent

    def report(self) -> Mapping[str, Any]:
        """Return what ``mon/metrics`` shows; nothing where nothing ever was promised."""
        config = self._config
        if not config.enabled:
            return {"given_up": told} if (told := self.given_up) else {}
        clip = config.clip if self.central is None else self.central.clip
        return {
            "mechanism": config.mechanism,
            "epsilon": round_up(self.epsilon),
            "epsilon_budget": config.epsilon,
            "delta": config.delta,
            "noise_multiplier": config.multiplier,
            "clip": clip,
            "updates_a_device": config.most_updates,
            "devices_spent": self.num_spent,
            **({"since_version": self.since} if self.since else {}),
        }


def round_up(value: float) -> float:
    """Three digits after the point, never fewer than there are."""
    return -(-value * 1000 // 1) / 1000
