"""The roster: nobody but the operator makes one, and its hash is of all that is in it."""

import contextlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.codec import encode, pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import ENVELOPE
from protocol.messages import AGGREGATOR, CHUNK_BYTES, MAX_COHORT
from protocol.secagg import keys
from protocol.secagg.messages import SignedRoster
from protocol.secagg.roster import Roster, RosterMember, _Body, check_roster, open_roster
from protocol.stream import derive
from tests.support.enrolment import SEED, cohort
from tests.support.messages import of_class

DEVICES = ("a", "b", "c", "d", "e")
COHORT = cohort(DEVICES)
ROSTER = COHORT.roster
ENROLMENT = derive(SEED, "enrolment")
#: Each field of a roster changed: something that its hash must say.
CHANGED: dict[str, Callable[[Roster], Roster]] = {
    "task": lambda roster: replace(roster, task="u"),
    "cohort": lambda roster: replace(roster, cohort="some"),
    "epoch": lambda roster: replace(roster, epoch=2),
    "valid_s": lambda roster: replace(roster, valid_s=1),
    "aggregator": lambda roster: replace(roster, aggregator=COHORT.enrolment),
    "device": lambda roster: member(roster, device="aa"),
    "identity": lambda roster: member(roster, identity=COHORT.enrolment),
    "epoch_key": lambda roster: member(roster, epoch_key=keys.epoch_public(SEED)),
    "endorsement": lambda roster: member(roster, endorsement=bytes(64)),
    "scheme": lambda roster: given_as(roster, scheme="lightsecagg"),
    "num_malicious": lambda roster: given_as(roster, num_malicious=0),
    "num_noise": lambda roster: given_as(roster, num_noise=2),
    "num_answers": lambda roster: given_as(roster, num_answers=4),
    "min_contributors": lambda roster: given_as(roster, min_contributors=4),
    "max_contributors": lambda roster: given_as(roster, max_contributors=4),
    "group": lambda roster: given_as(roster, group=3),
    "max_weight": lambda roster: given_as(roster, max_weight=2),
    "size": lambda roster: given_as(roster, size=102),
    "clip": lambda roster: given_as(roster, clip=0.5),
    "bits": lambda roster: given_as(roster, bits=15),
    "samples_cap": lambda roster: given_as(roster, samples_cap=64),
    "staleness": lambda roster: given_as(roster, staleness="polynomial-0.5"),
    "multiplier_milli": lambda roster: given_as(roster, multiplier_milli=1000),
    "budget_nano": lambda roster: given_as(roster, budget_nano=1),
}

BODY = unpack(ROSTER.body, _Body)
NUMBERS = [field.name for field in fields(_Body) if isinstance(getattr(BODY, field.name), int)]


def member(roster: Roster, **changes: Any) -> Roster:
    return replace(roster, members=(replace(roster.members[0], **changes), *roster.members[1:]))


def given_as(roster: Roster, **changes: Any) -> Roster:
    return replace(roster, parameters=replace(roster.parameters, **changes))


def altered(**changes: Any) -> bytes:
    """Return the roster's body with fields of any value, within their limits or not."""
    names, written = (f.name for f in fields(_Body)), msgpack.unpackb(ROSTER.body)
    values = dict(zip(names, written, strict=False))  # ``group``, the last, is left out
    packed: bytes = msgpack.packb(list({**values, **changes}.values()))
    return packed


def signed(body: bytes) -> SignedRoster:
    return SignedRoster(body, keys.sign(ENROLMENT, keys.ROSTER, body))


def reason(signed_roster: SignedRoster, enrolment_key: bytes = COHORT.enrolment) -> str:
    with pytest.raises(RemoteProtocolError) as refused:
        open_roster(signed_roster, enrolment_key)
    return refused.value.reason


@pytest.mark.parametrize("num_devices", [3, 4, 5, 10, 128])
def test_opening_inverts_signing(num_devices: int) -> None:
    enrolled = cohort([f"device-{number:03}" for number in range(num_devices)])
    opened = open_roster(enrolled.signed, enrolled.enrolment)
    assert opened == enrolled.roster
    assert opened.hash == enrolled.roster.hash


@given(st.data())
def test_no_byte_of_a_roster_can_be_changed(data: Any) -> None:
    body = bytearray(COHORT.signed.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    assert reason(replace(COHORT.signed, body=bytes(body))) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize("change", CHANGED.values(), ids=list(CHANGED))
def test_the_hash_is_of_every_field(change: Callable[[Roster], Roster]) -> None:
    other = change(ROSTER)
    assert other.hash != ROSTER.hash
    assert other.public_seed != ROSTER.public_seed
    assert reason(SignedRoster(other.body, COHORT.signed.signature)) == refusals.BAD_SIGNATURE


def test_every_field_that_is_signed_was_changed() -> None:
    assert len(CHANGED) == len(fields(_Body)) - 1  # all but the version


def test_the_aggregator_cannot_sign_a_roster() -> None:
    assert reason(ROSTER.signed(COHORT.aggregator)) == refusals.BAD_SIGNATURE
    own = keys.identity_public(COHORT.aggregator)
    assert open_roster(ROSTER.signed(COHORT.aggregator), own) == ROSTER  # for those it enrolled


def test_a_signature_for_another_purpose_is_none() -> None:
    body = ROSTER.body
    for purpose in (keys.REQUEST, ENVELOPE, keys.SHARES, keys.EPOCH_KEY):
        signature = keys.sign(ENROLMENT, purpose, body)
        assert reason(SignedRoster(body, signature)) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize(
    "change",
    [
        CHANGED["epoch"],  # an epoch key of another epoch
        CHANGED["task"],
        CHANGED["identity"],
        CHANGED["epoch_key"],
        CHANGED["endorsement"],
        lambda roster: member(roster, endorsement=roster.members[1].endorsement),
    ],
)
def test_an_epoch_key_that_its_device_did_not_endorse_is_refused(
    change: Callable[[Roster], Roster],
) -> None:
    assert reason(signed(change(ROSTER).body)) == refusals.BAD_SIGNATURE


def test_devices_cannot_swap_their_epoch_keys() -> None:
    first, second, *rest = ROSTER.members
    swapped = (
        replace(first, epoch_key=second.epoch_key, endorsement=second.endorsement),
        replace(second, epoch_key=first.epoch_key, endorsement=first.endorsement),
    )
    changed = replace(ROSTER, members=(*swapped, *rest))
    assert reason(signed(changed.body)) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: replace(r, members=r.members[::-1]), "sorted"),
        (lambda r: member(r, device="b"), "sorted"),
        (lambda r: member(r, identity=r.members[1].identity), "same identity"),
        (lambda r: member(r, epoch_key=r.members[1].epoch_key), "same epoch_key"),
        (lambda r: member(r, device="A"), "a-z"),
        (lambda r: replace(r, task="a/b"), "a-z"),
        (lambda r: replace(r, cohort="+"), "a-z"),
        (lambda r: given_as(r, num_answers=6), "."),
        (lambda r: given_as(r, num_noise=2), "."),
        (lambda r: given_as(r, num_answers=3), "."),
        (lambda r: given_as(r, min_contributors=2), "."),
        (lambda r: given_as(r, max_contributors=6), "."),
        (lambda r: given_as(r, scheme="plain"), "."),
        (lambda r: given_as(r, size=0), "."),
        (lambda r: given_as(r, clip=0), "."),
        (lambda r: given_as(r, bits=0), "."),
        (lambda r: given_as(r, max_weight=0), "."),
    ],
)
def test_a_roster_that_cannot_be_is_refused_though_it_is_signed(
    change: Callable[[Roster], Roster], problem: str
) -> None:
    roster = change(ROSTER)
    with pytest.raises(ConfigError, match=problem):
        check_roster(roster)
    assert reason(signed(roster.body)) == refusals.MALFORMED


@pytest.mark.parametrize("clip", [1e-7, 0.12345678, 1 / 3])
def test_a_clip_that_a_roster_cannot_say_is_refused(clip: float) -> None:
    """Or the parties would scale by different numbers."""
    with pytest.raises(ConfigError, match="6 digits"):
        check_roster(given_as(ROSTER, clip=clip))


@given(st.integers(1, 10**12))
def test_a_clip_of_millionths_survives_its_roster(clip_micro: int) -> None:
    roster = given_as(ROSTER, clip=clip_micro / 10**6)
    opened = open_roster(signed(roster.body), COHORT.enrolment)
    assert opened.parameters.clip == float(f"{clip_micro}e-6")


def test_a_roster_has_a_device_for_each_it_counts() -> None:
    with pytest.raises(ConfigError, match="6"):
        check_roster(given_as(ROSTER, num_devices=6))


@pytest.mark.parametrize("what", ["identities", "epoch_keys", "endorsements"])
@pytest.mark.parametrize("num_bytes", [0, 32, 159, 161, 321])
def test_there_is_a_key_of_each_kind_a_device(what: str, num_bytes: int) -> None:
    assert reason(signed(altered(**{what: bytes(num_bytes)}))) == refusals.MALFORMED


def test_an_epoch_key_of_low_order_is_refused() -> None:
    point = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    identity = COHORT.identity("a")
    endorsement = keys.sign(identity, keys.EPOCH_KEY, keys.endorsed("t", 1, point))
    changed = member(ROSTER, epoch_key=point, endorsement=endorsement)
    assert reason(signed(changed.body)) == refusals.MALFORMED


def test_a_roster_has_one_spelling() -> None:
    """Whoever hashes the received bytes and whoever writes them anew must get the same."""
    assert ROSTER.body[:3] == b"\xdc\x00\x16"  # an array of 22, counted in two bytes
    spelled = b"\xdd\x00\x00\x00\x16" + ROSTER.body[3:]
    assert msgpack.unpackb(spelled) == msgpack.unpackb(ROSTER.body)
    assert reason(signed(spelled)) == refusals.MALFORMED


def test_another_version_of_the_roster_is_refused() -> None:
    assert reason(signed(altered(version=2))) == refusals.MALFORMED


def test_the_largest_cohort_fits_a_packet() -> None:
    names = [f"{number:03}" + "x" * 61 for number in range(MAX_COHORT)]
    enrolled = cohort(names, "t" * 64, name="c" * 64)
    data = encode(enrolled.signed, task="t" * 64, sender=AGGREGATOR, counter=(1 << 63) - 1)
    assert len(data) < CHUNK_BYTES
    assert open_roster(enrolled.signed, enrolled.enrolment) == enrolled.roster


@given(st.binary())
def test_signed_garbage_is_refused_and_raises_nothing_else(body: bytes) -> None:
    assert reason(signed(body)) == refusals.MALFORMED
    assert reason(SignedRoster(body, bytes(64)), body[:32]) == refusals.BAD_SIGNATURE


@given(of_class(_Body))
def test_a_signed_roster_of_any_numbers_is_refused_and_raises_nothing_else(body: _Body) -> None:
    with contextlib.suppress(RemoteProtocolError):
        open_roster(signed(pack(body)), COHORT.enrolment)


@given(st.data())
def test_a_roster_with_any_number_in_a_field_opens_or_is_refused(data: Any) -> None:
    """All its keys are right, so that the parameters alone decide."""
    name = data.draw(st.sampled_from(NUMBERS))
    value = data.draw(st.sampled_from((0, 1, 2, 3, 1 << 20, 1 << 40)) | st.integers(0, 1 << 40))
    with contextlib.suppress(RemoteProtocolError):
        open_roster(signed(altered(**{name: value})), COHORT.enrolment)


def test_a_device_is_known_by_its_place() -> None:
    assert [ROSTER.index(device) for device in DEVICES] == [0, 1, 2, 3, 4]
    assert ROSTER.index("f") is None
    assert cohort(DEVICES[::-1]).roster == ROSTER


def test_a_masks_name_is_its_own() -> None:
    other = cohort(DEVICES, epoch=2).roster
    names = {
        roster.mask_id(dealer, counter)
        for roster in (ROSTER, other)
        for dealer in (0, 1, 127)
        for counter in (0, 1, 256, (1 << 63) - 1)
    }
    assert len(names) == 24
    assert {len(name) for name in names} == {42}


def test_a_member_is_its_keys() -> None:
    assert ROSTER.members[0] == RosterMember(
        "a",
        keys.identity_public(COHORT.identity("a")),
        keys.epoch_public(COHORT.epoch_secret("a")),
        ROSTER.members[0].endorsement,
    )
