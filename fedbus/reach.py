"""How the broker of a new federation is reached."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from broker_config.mosquitto import Ports
from protocol.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Reach:
    """``hosts``: names and addresses that it is certified for; the first is the one to use.

    ``listen``: it listens at this address alone; empty: at all.
    """

    hosts: tuple[str, ...]
    ports: Ports
    listen: str

    @classmethod
    def by(cls, hosts: Sequence[str], ports: Ports) -> Self:
        """Reach it by these hosts, or without any from this machine alone.

        Raises ConfigError for what is no host, and for a port that is named twice.
        """
        for host in hosts:
            if not _is_address(host) and any(each in "/:" or each.isspace() for each in host):
                raise ConfigError(f"--host {host}: a name or an address alone; --port says where")
        taken = [port for port in (ports.tls, ports.password, ports.websockets) if port]
        if len(set(taken)) != len(taken):
            raise ConfigError("--port, --password-port and --websocket-port must differ")
        own = tuple(dict.fromkeys([*hosts, LOOPBACK, "localhost"]))
        return cls(own, ports, listen="" if hosts else LOOPBACK)

    @property
    def host(self) -> str:
        """The host to use."""
        return self.hosts[0]

    @property
    def text(self) -> str:
        """Where that is, for a person."""
        alone = _is_address(self.host) and ipaddress.ip_address(self.host).is_loopback
        only = ": this machine alone; --host says otherwise" if alone else ""
        return f"{self.host}:{self.ports.tls}{only}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
