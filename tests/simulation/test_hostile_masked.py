"""The same broker at what `fedbus init` makes: signed, masked. No sum is wrong, none tells of one.

`SecureAudit` looks at every version: its sum is that of the plaintexts it counted, over enough
devices, each once; and no holder's answers show less than a sum.
"""

from dataclasses import replace
from functools import partial

import pytest

from aggregator.gate import Trust
from aggregator.secure_config import Enrolment
from device_sdk.pending import Pending
from protocol.stream import derive
from simulator import World
from tests.simulation.hostile_broker import recover, suffer
from tests.simulation.secure_audit import SecureAudit
from tests.simulation.secure_enrolment import Operator, device_keys, everybody, secure_config
from tests.simulation.secure_history import Numbers, SecureHistory
from tests.simulation.secure_play import config
from tests.simulation.secure_training import Trainings

NUM_MESSAGES = 5_000
NAMES = "abcdef"
#: An epoch that lasts.
SETTING = SecureHistory(
    seed=1,
    mode="buffered",
    scheme="seedmask",
    support="dense",
    weighted=False,
    numbers=Numbers(devices=6, malicious=1, noise=3, answers=4),
    packet_bytes=1 << 16,
    valid_s=1_000_000,
    operations=(),
)


def world_of(scheme: str) -> tuple[World, SecureAudit]:
    """Return six enrolled devices and what watches them."""
    setting = replace(SETTING, scheme=scheme)
    task, secure, cohort = config(setting), secure_config(setting), everybody(1)
    operator = Operator(setting, task)
    world = World(
        task,
        derive(bytes(32), "hostile", scheme),
        enrolment=Enrolment(secure, cohort.aggregator, cohort.enrolment, (operator.sign(),)),
        trust=Trust(cohort.aggregator, cohort.enrolment),
    )
    trainings = Trainings()
    audit = SecureAudit(world, secure.codec, trainings)
    audit.holders.rosters[operator.newest.hash] = operator.newest
    for name in NAMES:
        device = world.add(
            name,
            trainings.trainer(name),
            lambda _assignment: 2.0,
            storage=audit.storage(name),
            retry_first_s=3.0,
            retry_cap_s=20.0,
            keys=device_keys(name, founder=True),
        )
        device.closed = partial(closed, audit, name)
    return world, audit


def closed(audit: SecureAudit, name: str, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the hook's
    audit.closed(name, pending, counted=counted)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
def test_a_hostile_broker_costs_masked_updates_time_and_nothing_else(scheme: str) -> None:
    world, audit = world_of(scheme)
    hostile = suffer(world, 1, NUM_MESSAGES)
    audit.check()
    assert min(hostile.done[what] for what in ("drop", "delay", "change", "forge", "cross")) > 150
    assert audit.version > 20, "there was hardly anything to spoil"
    recover(hostile, world, audit)
    counts = world.server.counts
    assert counts["refused_bad_signature"] > 50
    assert counts["refused_replayed"] > 50
