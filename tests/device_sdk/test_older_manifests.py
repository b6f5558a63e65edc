"""A manifest is not stored by who only hears it, so after a reboot an older one is believed.

What a broker gains by that it can have without: by keeping the newer ones back. All that a device
takes from a manifest is the number of the newest version, by which it weighs its own lateness (and
an unheard one weighs as none), and receipts, which are true whenever they are heard. Models come
with leases, and a lease names its model's hash.
"""

import pytest

from device_sdk.pending import PENDING
from device_sdk.states import State
from protocol import refusals
from protocol.codec import encode
from protocol.messages import AGGREGATOR, Manifest
from tests.support.circle import Circle
from tests.support.enrolment import SIGNER
from tests.support.handset import Handset

DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]
NEWEST, OLDER = 9, 7


@pytest.fixture
def circle() -> Circle:
    made = Circle()
    made.join()
    return made


def manifest(handset: Handset, version: int, *counted: bytes) -> bytes:
    """Return what the aggregator signed as it published a version, as counter ``version``."""
    topic = handset.topics.manifest()
    return encode(
        Manifest(version, bytes(32), 4, 1, counted),
        task="t",
        sender=AGGREGATOR,
        counter=version,
        sign=SIGNER.on(topic),
    )


def hears(handset: Handset, payload: bytes) -> None:
    handset.receive(handset.topics.manifest(), payload)


def replays(handset: Handset) -> int:
    return handset.session.counts[f"refused_{refusals.REPLAYED}"]


def test_versions_that_pass_an_idle_device_by_are_not_written_to_its_flash(circle: Circle) -> None:
    ada = circle["a"]
    before, num_actions = dict(ada.flash), len(ada.log)
    for version in range(1, 200):
        hears(ada, manifest(ada, version))
    assert ada.flash == before
    assert len(ada.log) == num_actions


def test_after_a_reboot_an_older_manifest_does_what_keeping_all_back_would(circle: Circle) -> None:
    """Two devices of the same flash, one told of an older version, one of none: both the same."""
    ada = circle["a"]
    hears(ada, manifest(ada, NEWEST))
    ada.reboot()
    num_actions, flash = len(ada.log), dict(ada.flash)
    assert ada.session.newest_version == 0
    hears(ada, manifest(ada, OLDER))
    assert (replays(ada), len(ada.log), ada.flash) == (0, num_actions, flash)
    assert ada.session.state is State.IDLE
    # Lateness is max(0, newest - base): of a lease for OLDER or later it is that of no manifest.
    assert ada.session.newest_version == OLDER


def test_the_newest_manifest_puts_it_right_and_then_the_older_one_is_refused(
    circle: Circle,
) -> None:
    """It is retained: it comes with the next connection to a broker that does not hold it back."""
    ada = circle["a"]
    hears(ada, manifest(ada, NEWEST))
    ada.reboot()
    for version in (OLDER, NEWEST, OLDER):
        hears(ada, manifest(ada, version))
    assert ada.session.newest_version == NEWEST
    assert replays(ada) == 1


def test_from_the_last_training_on_an_older_one_is_refused_at_once(circle: Circle) -> None:
    ada = circle["a"]
    hears(ada, manifest(ada, NEWEST))
    circle.reports("a", DELTA)
    ada.reboot()
    hears(ada, manifest(ada, OLDER))
    assert (ada.session.newest_version, replays(ada)) == (0, 1)


def test_the_receipts_of_an_older_manifest_are_true(circle: Circle) -> None:
    """An update is counted once, so that no later manifest can take it back."""
    ada = circle["a"]
    circle.reports("a", DELTA)
    assert ada.session.pending is not None
    receipt = manifest(ada, OLDER, ada.session.pending.lease_id)
    ada.reboot()
    hears(ada, receipt)
    assert ada.session.state is State.IDLE
    assert PENDING not in ada.flash
