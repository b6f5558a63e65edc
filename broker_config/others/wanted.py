"""What a configuration is made for. Plain values."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker_config.accounts import SERVICES, account_names, role_of
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Grant, Role, check_id, grants

#: Stands in one list of what is where, at the top of each file.
MADE: Final = "Made by `fedbus broker config` from protocol/topics.py: change the rules there."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Whom a broker serves, below which prefix.

    ``task`` restricts the rules to one; ``+`` is every task. For the bridge: ``gateway`` is the
    account of the site's broker, ``host`` and ``port`` are where the broker in the middle is.
    Raises ConfigError for a name that cannot be spelled.
    """

    devices: tuple[str, ...] = ()
    prefix: str = DEFAULT_PREFIX
    task: str = "+"
    gateway: str = "gateway-1"
    host: str = "broker.example"
    port: int = 8883

    def __post_init__(self) -> None:
        account_names(self.devices)
        if self.task != "+":
            check_id(self.task, "task")
        check_id(self.gateway, "gateway")
        if not self.host or not self.host.isprintable() or " " in self.host:
            raise ConfigError(f"host {self.host!r}: one name or address")
        if self.gateway in {*SERVICES, *self.devices}:
            raise ConfigError(
                f"gateway {self.gateway!r}: somebody else has this account; rename it"
            )

    def device_grants(self, own: str, role: Role | None = None) -> Iterator[Grant]:
        """Yield what a device (or newcomer) may do, whose id is ``own``.

        Where ``own`` is a broker's word for the name, ``role`` says whether it is a newcomer's.
        """
        for grant in grants(role or role_of(own), self.prefix, self.task):
            yield Grant(grant.access, grant.filter.format(device=own))

    def service_grants(self, name: str) -> Iterator[Grant]:
        """Yield what ``aggregator`` or ``monitor`` may do."""
        yield from grants(SERVICES[name], self.prefix, self.task)

    def topics(self, account: str, access: str, role: Role | None = None) -> list[str]:
        """Return the filters that an account may ``read`` or ``write``; ``role`` as above."""
        is_service = account in SERVICES
        found = self.service_grants(account) if is_service else self.device_grants(account, role)
        return [grant.filter for grant in found if grant.access == access]
