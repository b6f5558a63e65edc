"""Secure aggregation: the aggregator learns sums over devices, or nothing."""

from typing import TYPE_CHECKING, Protocol

from protocol.errors import ConfigError

if TYPE_CHECKING:
    from protocol.secagg.field import Elements
    from protocol.secagg.parameters import Parameters
    from protocol.secagg.shares import Sharing


class Scheme(Protocol):
    """A way to mask updates whose secrets are handed out beforehand; `scheme` gives a module."""

    def secret(self, parameters: "Parameters", seed: bytes, /) -> "Elements":
        """Return what a device hands out shares of (secret_size,); it masks one update with it."""

    def secret_size(self, parameters: "Parameters", /) -> int:
        """Return how many elements a secret has."""

    def sharing(self, parameters: "Parameters", /) -> "Sharing":
        """Return how secrets are shared."""

    def mask(
        self,
        parameters: "Parameters",
        public_seed: bytes,
        secret: "Elements",
        values: "Elements",
        seed: bytes,
        /,
    ) -> bytes:
        """Return the body of an update: values (size,), masked."""

    def add(self, parameters: "Parameters", total: "Elements", body: bytes, /) -> None:
        """Add an arriving update to a running total (size,), zeros at first."""

    def unmask(
        self,
        parameters: "Parameters",
        public_seed: bytes,
        total: "Elements",
        num_updates: int,
        secret_sum: "Elements",
        /,
    ) -> "Elements":
        """Return the sums of the values (size,) from the total and the sum of the secrets."""

    def noise_bound(self, parameters: "Parameters", num_updates: int, /) -> int:
        """Return how far an unmasked sum may be from the true one."""


def scheme(name: str) -> Scheme:
    """Return the scheme that a roster names. Raises ConfigError if it is none of these.

    `protocol.secagg.pairwise` is none: its parties talk in rounds.
    """
    # Imported when a task is secure: devices of other tasks start without it.
    from protocol.secagg import lightsecagg, seedmask  # noqa: PLC0415 - see above

    match name:
        case "seedmask":
            return seedmask
        case "lightsecagg":
            return lightsecagg
    raise ConfigError(f"scheme {name!r}: use seedmask or lightsecagg")
