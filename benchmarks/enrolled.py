"""A cohort for benchmarks of secure aggregation: roster and keys, as `fedbus enrol` makes them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_sdk.identity import Keys, read_keys
from fedbus.enrolment import enrol
from fedbus.key_files import read_secret
from protocol.codec import unpack
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster

TASK: Final = "secagg"

Numbers = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Everybody's view at once; ``keys`` by the devices' indices."""

    roster: Roster
    signed: SignedRoster
    keys: tuple[Keys, ...]
    aggregator: bytes

    @property
    def enrolment(self) -> bytes:
        """The public key that rosters are checked with."""
        return self.keys[0].enrolment


def parameters(scheme: str, numbers: Numbers, size: int, *, bits: int = 16) -> Parameters:
    """Return the parameters of a cohort with ``numbers`` (N, t, T, U) for ``size`` params.

    As many devices contribute to a sum as answer for it: N - U of them have dropped out.
    """
    num_devices, malicious, noise, answers = numbers
    given = Parameters(
        scheme=scheme,
        num_devices=num_devices,
        num_malicious=malicious,
        num_noise=noise,
        num_answers=answers,
        min_contributors=malicious + 2,
        max_contributors=answers,
        size=size + 1,
        clip=1.0,
        bits=bits,
        samples_cap=0,
    )
    given.check()
    return given


def enrolled(given: Parameters, task: str = TASK) -> Cohort:
    """Enrol as many devices as the parameters name: d000, d001, ..."""
    devices = [f"d{index:03}" for index in range(given.num_devices)]
    with tempfile.TemporaryDirectory() as folder:
        made = enrol(Path(folder) / "enrolment", given, task, devices)
        keys = tuple(
            read_keys(made.keys_files[device], task=task, device=device) for device in devices
        )
        signed = unpack(made.roster_file.read_bytes(), SignedRoster)
        return Cohort(made.roster, signed, keys, read_secret(made.aggregator_file))
