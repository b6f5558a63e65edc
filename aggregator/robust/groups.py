"""Robust rules over the sums of groups, where single updates are masked.

R. K. Velicheti, D. Xia, O. Koyejo, "Secure Byzantine-Robust Distributed Learning via Clustering",
arXiv:2110.02940, 2021: updates are summed in groups, and a rule judges the groups. A group with one
attacker is lost whole, so that a part eps of attackers spoils 1 - (1 - eps)^m of groups of m, and
that has to stay below what a rule can bear.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from aggregator.robust import Combined, Float64
from aggregator.robust.config import RobustConfig
from protocol.errors import ConfigError

#: No rule stands more wrong groups than half of them, and the accuracy suffers before that: with
#: up to this part of them wrong it stays within 0.03 (docs/adr/0030).
MOST_SPOILT: Final = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class GroupMean:
    """What is known of one group of a masked buffer: whose updates, and their weighted mean.

    ``mean`` has the coordinates that were masked, or all that are trained (`aggregator.supports`).
    """

    devices: tuple[str, ...]
    mean: Float64


def spoilt(attackers: float, group: int) -> float:
    """Return the part of groups of so many that has an attacker in it, drawn at random."""
    return 1.0 - (1.0 - attackers) ** group


def check_groups(config: RobustConfig, num_groups: int, size: int) -> None:
    """Refuse groups that a rule cannot judge; ``num_groups`` are in the smallest buffer.

    Raises ConfigError that says what to change.
    """
    part = spoilt(config.attackers, config.group)
    if part > MOST_SPOILT:
        most = math.floor(math.log(1 - MOST_SPOILT) / math.log(1 - config.attackers))
        bearable = 1 - (1 - MOST_SPOILT) ** (1 / config.group)
        raise ConfigError(
            f"robust.group = {config.group}: with attackers = {config.attackers} every"
            f" {1 / part:.1f}th group would have one in it, and no rule makes up for more than"
            f" {MOST_SPOILT:.0%} of them: groups of {most} at most; or attackers ="
            f" {math.floor(1000 * bearable) / 1000}, if you can vouch for that"
        )
    _of_groups(config).check(num_groups, size, 8 * size)


def combine_groups(config: RobustConfig, groups: Sequence[GroupMean]) -> Combined:
    """Return what the rule makes of the groups, each weighing as many as its devices.

    Not by samples, as inside a group: a device that claims many has its group, and no more than
    that.
    """
    weights = np.array([len(group.devices) for group in groups], np.float64)
    return _of_groups(config).combine()(np.stack([group.mean for group in groups]), weights)


def _of_groups(config: RobustConfig) -> RobustConfig:
    """Return the settings for rows that are groups: more of them are wrong than of devices."""
    return replace(config, attackers=min(0.49, spoilt(config.attackers, config.group)))
