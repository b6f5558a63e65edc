"""Whether all that a scenario names befalls its fleet: what would be passed over is refused."""

from collections.abc import Iterable, Sequence

from aggregator.scheduling.selection import SelectionConfig
from protocol.errors import ConfigError
from simulator.scenario_parts import Reboot


def check_moments(moments: Iterable[tuple[str, float]], duration_s: float) -> None:
    """Refuse what would come after the end. Each has its key and its virtual seconds.

    Raises ConfigError.
    """
    for key, at_s in moments:
        if at_s >= duration_s:
            raise ConfigError(f"{key}: {at_s:.15g} s is not before the end: raise duration_s")


def check_reboots(reboots: Iterable[Reboot], num_devices: int) -> None:
    """Refuse shares that are not one device. Raises ConfigError."""
    for at, reboot in enumerate(reboots):
        if round(reboot.share * num_devices) == 0:
            raise ConfigError(
                f"reboot[{at}].share: {reboot.share:.15g} of {num_devices} devices is not even one"
            )


def check_sites(selection: SelectionConfig, devices: Sequence[str]) -> None:
    """Refuse a site that none of these devices belongs to. Raises ConfigError."""
    empty = set(selection.sites)
    for device in devices:
        if not empty:
            return
        empty.discard(selection.site_of(device))
    for name in sorted(empty):
        raise ConfigError(
            f"selection.sites.{name}.devices: no device belongs to it: they are called like"
            f" {devices[0]}, and are of the first site that has a pattern for them"
        )
