"""The same broker at what `fedbus init` makes: signed, masked. No sum is wrong, none tells of one.

`SecureAudit` looks at every version: its sum is that of the plaintexts it counted, over enough
devices, each once; and no holder's answers show less than a sum.
"""

import pytest

from tests.simulation.hostile_broker import recover, suffer
from tests.simulation.masked_world import masked_world

pytestmark = pytest.mark.usefixtures("remembered_crypto")

NUM_MESSAGES = 5_000


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
def test_a_hostile_broker_costs_masked_updates_time_and_nothing_else(scheme: str) -> None:
    world, audit = masked_world(scheme)
    hostile = suffer(world, 1, NUM_MESSAGES)
    audit.check()
    assert min(hostile.done[what] for what in ("drop", "delay", "change", "forge", "cross")) > 150
    assert audit.version > 20, "there was hardly anything to spoil"
    recover(hostile, world, audit)
    counts = world.server.counts
    assert counts["refused_bad_signature"] > 50
    assert counts["refused_replayed"] > 50
