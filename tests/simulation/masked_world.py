"""Six devices as `fedbus init` makes them: signatures are required, updates are masked."""

from dataclasses import replace
from functools import partial

from aggregator.gate import Trust
from aggregator.secure_config import Enrolment
from device_sdk.pending import Pending
from protocol.stream import derive
from simulator import World
from tests.simulation.secure_audit import SecureAudit
from tests.simulation.secure_enrolment import Operator, device_keys, everybody, secure_config
from tests.simulation.secure_history import Numbers, SecureHistory
from tests.simulation.secure_play import config
from tests.simulation.secure_training import Trainings

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


def masked_world(scheme: str) -> tuple[World, SecureAudit]:
    """Return the world and what watches it."""
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
        device.closed = partial(_closed, audit, name)
    return world, audit


def _closed(audit: SecureAudit, name: str, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the hook's
    audit.closed(name, pending, counted=counted)
