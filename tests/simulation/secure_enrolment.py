"""The operator of a secure history: keys files for everybody, one roster after the other."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from device_sdk.identity import Keys, parse_keys
from protocol.secagg.messages import SignedRoster
from protocol.secagg.roster import Roster, RosterMember
from protocol.stream import derive
from protocol.topics import Topics
from simulator import World
from tests.simulation.secure_generate import NAMES
from tests.simulation.secure_history import SecureHistory
from tests.simulation.secure_training import CLIP, SAMPLES_CAP
from tests.simulation.training import SIZE
from tests.support.enrolment import SEED, Cohort, cohort

TASK = "sim"
#: Devices that come later have keys for so many epochs; founders make all but the first themselves.
MAX_EPOCH = 6


def secure_config(history: SecureHistory) -> SecureConfig:
    """Return the aggregator's settings."""
    _, malicious, noise, answers = history.numbers
    return SecureConfig(
        scheme=history.scheme,
        support=history.support,
        support_every=2,
        clip=CLIP,
        bits=16,
        malicious=malicious,
        noise=noise,
        answers=answers,
        samples_cap=SAMPLES_CAP,
        spare_wait_s=1.0,
    )


@lru_cache(maxsize=MAX_EPOCH)
def everybody(epoch: int) -> Cohort:
    """Return all devices there can be, enrolled for one epoch."""
    return cohort(NAMES, TASK, epoch=epoch)


@lru_cache(maxsize=1024)
def device_keys(name: str, *, founder: bool) -> Keys:
    """Return what a device's keys file holds."""
    table = dict(everybody(1).keys[name])
    table["epochs"] = {
        str(epoch): everybody(epoch).epoch_secret(name).hex()
        for epoch in range(1, 2 if founder else MAX_EPOCH + 1)
    }
    return parse_keys(json.dumps(table))


class Operator:
    """Makes rosters of one cohort; knows the parameters from the settings."""

    def __init__(self, history: SecureHistory, task: TaskConfig) -> None:
        self._numbers = history.numbers
        parameters = secure_config(history).parameters(task, history.numbers.devices, SIZE)
        founders = _members(1, NAMES[: history.numbers.devices])
        self.newest = Roster(
            task=TASK,
            cohort="all",
            epoch=1,
            valid_s=history.valid_s,
            parameters=parameters,
            members=founders,
            aggregator=everybody(1).roster.aggregator,
        )

    def sign(self) -> SignedRoster:
        """Return the newest roster, signed."""
        return self.newest.signed(derive(SEED, "enrolment"))

    def make_next(self, world: World, living: Sequence[str]) -> SignedRoster | None:
        """Make the next roster of those who live, and of new devices; None: too many epochs.

        Of a device that is here already its announced key counts: without one it is left out.
        """
        epoch = self.newest.epoch + 1
        if epoch > MAX_EPOCH:
            return None
        announced = [_announced(world, name, epoch) for name in living]
        members = [member for member in announced if member is not None]
        members = members[: self._numbers.devices]
        fresh = [name for name in NAMES[self._numbers.devices :] if name not in world.devices]
        members += _members(epoch, fresh[: self._numbers.devices - len(members)])
        if len(members) < self._numbers.devices:
            return None
        ordered = tuple(sorted(members, key=lambda member: member.device))
        self.newest = replace(self.newest, epoch=epoch, members=ordered)
        return self.sign()


def _members(epoch: int, names: Sequence[str]) -> tuple[RosterMember, ...]:
    roster = everybody(epoch).roster
    return tuple(member for member in roster.members if member.device in names)


def _announced(world: World, name: str, epoch: int) -> RosterMember | None:
    """Return the member that a device's retained birth announces for an epoch."""
    birth = json.loads(world.broker.retained.get(Topics("fedbus/1", TASK).info(name), b"{}"))
    said = birth.get("next_epoch", {})
    if said.get("epoch") != epoch:
        return None
    identity = next(each for each in everybody(1).roster.members if each.device == name).identity
    key, endorsement = bytes.fromhex(said["key"]), bytes.fromhex(said["endorsement"])
    return RosterMember(name, identity, key, endorsement)
