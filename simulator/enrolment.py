"""A cohort enrolled in memory: what `fedbus enrol` does with files, from one seed.

Keys that come from a seed hide nothing. They are right for a simulation, and for nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aggregator.gate import Trust
from aggregator.secure_config import Enrolment, SecureConfig
from device_sdk.identity import Keys
from protocol.identity import Certificate, certify, identity_public
from protocol.secagg import keys as signing
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster, RosterMember, check_roster
from protocol.stream import derive

COHORT = "all"
#: Rosters are not renewed within a simulated run: its only one lasts.
EPOCH = 1
VALID_S = 1 << 30


class Enrolled(NamedTuple):
    """The aggregator's part, and each device's keys by name."""

    enrolment: Enrolment
    keys: Mapping[str, Keys]


def enrol(
    config: SecureConfig, parameters: Parameters, task: str, devices: Sequence[str], seed: bytes
) -> Enrolled:
    """Make keys and the roster of all devices. Raises ConfigError."""
    operator, aggregator = derive(seed, "operator"), derive(seed, "aggregator key")
    roster = Roster(
        task=task,
        cohort=COHORT,
        epoch=EPOCH,
        valid_s=VALID_S,
        parameters=parameters,
        members=tuple(_member(seed, task, device) for device in sorted(devices)),
        aggregator=signing.identity_public(aggregator),
    )
    check_roster(roster)
    enrolment_key = signing.identity_public(operator)
    signed = roster.signed(operator)
    return Enrolled(
        Enrolment(config, aggregator, enrolment_key, (signed,)),
        {device: _keys(seed, task, device, COHORT) for device in devices},
    )


def _member(seed: bytes, task: str, device: str) -> RosterMember:
    identity = derive(seed, "identity", device)
    public = signing.epoch_public(derive(seed, "epoch", device))
    endorsed = signing.endorsed(task, EPOCH, public)
    endorsement = signing.sign(identity, signing.EPOCH_KEY, endorsed)
    return RosterMember(device, signing.identity_public(identity), public, endorsement)


def certify_all(task: str, devices: Sequence[str], seed: bytes) -> tuple[Trust, Mapping[str, Keys]]:
    """Make what the aggregator believes, and each device's keys, for a task without masks."""
    trust = Trust(derive(seed, "aggregator key"), identity_public(derive(seed, "operator")))
    return trust, {device: _keys(seed, task, device, "") for device in devices}


def _keys(seed: bytes, task: str, device: str, cohort: str) -> Keys:
    operator, identity = derive(seed, "operator"), derive(seed, "identity", device)
    certificate = Certificate(task, device, identity_public(identity), serial=1)
    return Keys(
        task=task,
        device=device,
        cohort=cohort,
        identity=identity,
        epochs={EPOCH: derive(seed, "epoch", device)} if cohort else {},
        enrolment=identity_public(operator),
        aggregator=identity_public(derive(seed, "aggregator key")),
        certificate=certify(certificate, operator),
    )
