"""A cohort enrolled in memory, always the same one: what tests of secure tasks start from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict, Unpack

from protocol.identity import Certificate, Signer, certify
from protocol.secagg import keys
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import Parameters, defaults
from protocol.secagg.roster import Roster, RosterMember, check_roster
from protocol.stream import derive

SEED = bytes(range(32))
#: What the aggregator says of a cohort of that seed is signed by this.
SIGNER = Signer(derive(SEED, "aggregator"), "fedbus/1")


class Overrides(TypedDict, total=False):
    """What a test wants otherwise than `parameters` has it."""

    scheme: str
    num_malicious: int
    num_noise: int
    num_answers: int
    min_contributors: int
    max_contributors: int
    max_weight: int
    size: int
    clip: float
    bits: int
    samples_cap: int
    staleness: str
    group: int


class Cohort(NamedTuple):
    """Everybody's view at once; ``keys`` has what the keys file of each device holds."""

    roster: Roster
    signed: SignedRoster
    keys: Mapping[str, dict[str, object]]
    aggregator: bytes
    enrolment: bytes

    def identity(self, device: str) -> bytes:
        """Return the identity secret of a device."""
        return bytes.fromhex(str(self.keys[device]["identity"]))

    def epoch_secret(self, device: str) -> bytes:
        """Return the epoch secret of a device for this roster."""
        epochs = self.keys[device]["epochs"]
        assert isinstance(epochs, dict)
        return bytes.fromhex(epochs[str(self.roster.epoch)])


def parameters(num_devices: int, **overrides: Unpack[Overrides]) -> Parameters:
    """Return small parameters for so many devices: 101 values, everybody tolerated that can be."""
    malicious, noise, answers = defaults(num_devices)
    given = Parameters(
        scheme="seedmask",
        num_devices=num_devices,
        num_malicious=malicious,
        num_noise=noise,
        num_answers=answers,
        min_contributors=malicious + 2,
        max_contributors=num_devices,
        max_weight=1,
        size=101,
        clip=1.0,
        bits=16,
        samples_cap=0,
    )
    return replace(given, **overrides)


def cohort(
    devices: Sequence[str],
    task: str = "t",
    *,
    name: str = "all",
    epoch: int = 1,
    seed: bytes = SEED,
    valid_s: int = 86_400,
    **overrides: Unpack[Overrides],
) -> Cohort:
    """Enrol devices. Identities and the aggregator's key are the same in every epoch of a seed."""
    enrolment, aggregator = derive(seed, "enrolment"), derive(seed, "aggregator")
    enrolment_key = keys.identity_public(enrolment)
    members = tuple(_member(seed, task, device, epoch) for device in sorted(devices))
    roster = Roster(
        task=task,
        cohort=name,
        epoch=epoch,
        valid_s=valid_s,
        parameters=parameters(len(devices), **overrides),
        members=members,
        aggregator=keys.identity_public(aggregator),
    )
    check_roster(roster)
    files: dict[str, dict[str, object]] = {
        device: {
            "task": task,
            "device": device,
            "cohort": name,
            "identity": _identity(seed, device).hex(),
            "epochs": {str(epoch): _epoch_secret(seed, device, epoch).hex()},
            "enrolment": enrolment_key.hex(),
            "aggregator": keys.identity_public(aggregator).hex(),
            "certificate": certificate(task, device, _identity(seed, device), enrolment).hex(),
        }
        for device in devices
    }
    return Cohort(roster, roster.signed(enrolment), files, aggregator, enrolment_key)


def certificate(
    task: str, device: str, identity: bytes, enrolment: bytes, serial: int = 1
) -> bytes:
    """Return what the operator signs of a device's identity, given the two secrets."""
    return certify(Certificate(task, device, keys.identity_public(identity), serial), enrolment)


def _member(seed: bytes, task: str, device: str, epoch: int) -> RosterMember:
    identity, public = (
        _identity(seed, device),
        keys.epoch_public(_epoch_secret(seed, device, epoch)),
    )
    endorsement = keys.sign(identity, keys.EPOCH_KEY, keys.endorsed(task, epoch, public))
    return RosterMember(device, keys.identity_public(identity), public, endorsement)


def _identity(seed: bytes, device: str) -> bytes:
    return derive(seed, "identity", device)


def _epoch_secret(seed: bytes, device: str, epoch: int) -> bytes:
    return derive(seed, "epoch secret", device, epoch)
