"""What must never leave a device's memory, and what must not stay in it."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from device_sdk.actions import Store
from device_sdk.dealing import Dealer, Mask
from device_sdk.membership import Seat
from protocol.actions import Publish
from protocol.messages import MAX_STOCK
from protocol.secagg import scheme
from protocol.secagg.field import from_bytes, to_bytes
from protocol.secagg.messages import Dealt
from protocol.secagg.sealing import Boxes
from protocol.secagg.shares import TEST_COLUMNS, columns, recover
from protocol.stream import derive
from tests.support.circle import NAMES, Circle
from tests.support.enrolment import cohort
from tests.support.handset import SIZE

DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]
ROOM = 60_000
#: Where the session's seed is passed on to.
SESSION_PARTS = frozenset({"device_sdk.asking", "device_sdk.delivery", "device_sdk.preparing"})


def joined() -> Circle:
    circle = Circle()
    circle.join()
    return circle


def seat(circle: Circle, name: str) -> Seat:
    member = circle[name].session._member
    assert member is not None
    found = member._membership.seat
    assert found is not None
    return found


def masks(circle: Circle, name: str) -> list[Mask]:
    return list(seat(circle, name).dealer._stock)


def secrets(mask: Mask, circle: Circle) -> Iterator[bytes]:
    """Everything that gives a mask away, as its bytes could stand anywhere."""
    roster = circle.cohort.roster
    secret = mask.secret(roster)
    yield mask.seed
    yield mask.noise_seed()
    yield derive(mask.seed, "secret")
    yield derive(mask.seed, "dealing")
    for dtype in ("<u4", "<i8", ">i8"):
        yield secret[:8].astype(dtype).tobytes()
    yield to_bytes(secret, roster.parameters.modulus)[:32]


def test_no_secret_is_ever_stored_or_published() -> None:
    circle = joined()
    known = [
        secret for name in NAMES for mask in masks(circle, name) for secret in secrets(mask, circle)
    ]
    for name in NAMES:
        known += [circle.cohort.identity(name), circle.cohort.epoch_secret(name)]
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    request = circle.request({index: one.counter for index, one in updates.items()})
    for name in NAMES:
        circle.ask(name, request)
        circle.restart(name)
    for handset in circle.handsets:
        for action in handset.log:
            data = {Store: "data", Publish: "payload"}.get(type(action), "")
            if data:
                written = getattr(action, data)
                assert not [secret for secret in known if secret in written]


def test_what_a_device_stores_of_its_own_mask_is_one_share() -> None:
    circle = joined()
    own = [key for key in circle["a"].flash if key.startswith(f"share-{circle.index('a')}-")]
    assert len(own) == 2  # one a mask: what every holder has


def test_a_used_mask_leaves_nothing_in_memory() -> None:
    circle = joined()
    used = masks(circle, "a")[0]
    seed, given = used.seed, circle["a"].seed
    del used
    circle.reports("a", DELTA)
    gc.collect()
    assert not [it for it in gc.get_objects() if type(it) is Mask and it.seed == seed]
    assert not [held for held in remaining_seeds(circle, "a") if held in (seed, given)]


def remaining_seeds(circle: Circle, name: str) -> set[bytes]:
    """Every 32 bytes that session, member and dealer still have, and the session's parts."""
    session = circle[name].session
    assert session._member is not None
    owners = (session, session._member, session._member._membership, seat(circle, name).dealer)
    parts = [part for part in vars(session).values() if type(part).__module__ in SESSION_PARTS]
    assert len(parts) == len(SESSION_PARTS)
    values = [value for owner in (*owners, *parts) for value in vars(owner).values()]
    found = {value for value in values if isinstance(value, bytes) and len(value) == 32}
    assert len(found) == 4  # the session's, the membership's, the dealer's and its identity
    return found


def test_an_old_copy_of_the_storage_never_uses_a_secret_again() -> None:
    circle = joined()
    before = dict(circle["a"].flash)
    first = circle.reports("a", DELTA)
    known = {secret for mask in masks(circle, "a") for secret in secrets(mask, circle)}
    handset = circle["a"]
    handset.flash = before
    circle.restart("a")
    again = {secret for mask in masks(circle, "a") for secret in secrets(mask, circle)}
    assert not known & again
    second = circle.reports("a", DELTA)
    assert second.counter != first.counter
    assert second.counter >> 32 != first.counter >> 32
    # The same delta twice: under one mask the bodies would be the same but for their lowest bits.
    bodies = [np.frombuffer(update.body, "<u2").astype(np.int16) for update in (first, second)]
    assert np.abs(bodies[0] - bodies[1]).max() > 100


def test_a_dealer_s_state_does_not_run_back_to_its_first_masks() -> None:
    dealer = new_dealer()
    dealer.deal(1, ROOM)
    first = dealer.take()
    assert first is not None
    later = new_dealer(dealer._seed)  # what somebody finds who takes the device now
    later.deal(MAX_STOCK, ROOM)
    taken = [later.take() for _ in range(MAX_STOCK)]
    assert first.seed not in [mask.seed for mask in taken if mask is not None]


def new_dealer(seed: bytes = bytes(32)) -> Dealer:
    given = cohort(NAMES, size=SIZE + 1)
    return Dealer(
        given.roster,
        0,
        identity=given.identity("a"),
        boxes=Boxes(given.roster, 0, given.epoch_secret("a")),
        seed=seed,
    )


def test_a_dealer_hands_out_shares_of_the_secret_that_it_masks_with() -> None:
    given = cohort(NAMES, size=SIZE + 1).roster
    way = scheme(given.parameters.scheme)
    sharing = way.sharing(given.parameters)
    size = way.secret_size(given.parameters)
    dealer = new_dealer()
    batches = dealer.deal(1, ROOM)
    mask = dealer.take()
    assert mask is not None
    width = columns(size, sharing) + TEST_COLUMNS
    rows = {
        holder: from_bytes(dealt.batch.rows, sharing.modulus, width)[:-TEST_COLUMNS]
        for holder, (dealt,) in batches.items()
    }
    found = recover(rows, sharing, size)
    np.testing.assert_array_equal(found.secret, mask.secret(given))


def test_a_mask_is_taken_once() -> None:
    dealer = new_dealer()
    dealer.deal(2, ROOM)
    assert len({mask.counter for mask in (dealer.take(), dealer.take()) if mask is not None}) == 2
    assert dealer.take() is None
    assert dealer.dealt(ROOM) is None


def test_a_batch_takes_no_more_than_there_is_room_for() -> None:
    dealer = new_dealer()
    batches = dealer.deal(8, 4_000)
    for for_holder in batches.values():
        assert sum(len(dealt.batch.counters) for dealt in for_holder) == 8
        assert len(for_holder) > 1
        for batch in for_holder:
            shares = dealer.seal(batch)
            assert len(shares.sealed) + 200 < 4_000


def test_no_nonce_comes_twice() -> None:
    dealer = new_dealer()
    batches = [batch for _ in range(3) for some in dealer.deal(1, ROOM).values() for batch in some]
    nonces = [dealer.seal(batch).nonce for batch in (*batches, *batches)]
    assert len(set(nonces)) == len(nonces)


@pytest.mark.parametrize("name", ["_Share", "Mask", "Seat"])
def test_nothing_that_is_secret_shows_itself(name: str) -> None:
    circle = joined()
    place = seat(circle, "a")
    thing = {
        "_Share": next(iter(place.holder._shares.values())),
        "Mask": masks(circle, "a")[0],
        "Seat": place,
    }[name]
    shown = repr(thing)
    assert name in shown
    assert "seed" not in shown
    assert "\\x" not in shown


def test_the_stock_is_what_was_asked_for_and_never_more_than_fits_a_message() -> None:
    dealer = new_dealer()
    dealer.deal(MAX_STOCK + 5, ROOM)
    assert len(dealer) == MAX_STOCK
    dealt = dealer.dealt(ROOM)
    assert isinstance(dealt, Dealt)
    assert len(dealt.counters) == MAX_STOCK
