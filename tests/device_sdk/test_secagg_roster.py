"""Which roster a device follows: the enrolment key's, of the highest epoch, one for each epoch."""

import json
from dataclasses import replace

import msgpack
import pytest

from device_sdk.answers import ANSWER
from device_sdk.epochs import EPOCH_KEYS
from device_sdk.evidence import EVIDENCE
from device_sdk.holding import SHARE
from device_sdk.identity import parse_keys
from device_sdk.membership import ROSTER
from protocol import refusals
from protocol.actions import Publish
from protocol.codec import encode, pack
from protocol.secagg import keys
from protocol.secagg.messages import Dealt, Holdings, RecoveryAnswer, Shares, SignedRoster
from protocol.secagg.roster import Roster, RosterMember
from protocol.stream import derive
from protocol.topics import Kind
from tests.support.circle import NAMES, Circle, keys_of
from tests.support.enrolment import SEED, Cohort, cohort
from tests.support.handset import SIZE, Handset

DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]


def enrolled(names: tuple[str, ...] = NAMES, *, epoch: int = 1, seed: bytes = SEED) -> Cohort:
    return cohort(names, epoch=epoch, seed=seed, size=SIZE + 1)


def handset_of(given: Cohort, *later: Cohort) -> Handset:
    """A connected device ``a`` that has the keys of these rosters."""
    table = dict(given.keys["a"])
    epochs = table["epochs"]
    assert isinstance(epochs, dict)
    for each in later:
        more = each.keys["a"]["epochs"]
        assert isinstance(more, dict)
        epochs = {**epochs, **more}
    handset = Handset(keys=parse_keys(json.dumps({**table, "epochs": epochs})))
    handset.connect()
    handset.hear_plan("dense/seedmask")
    handset.published.clear()
    return handset


def hear(handset: Handset, signed: SignedRoster, name: str = "all") -> None:
    handset.hear(handset.topics.roster(name), signed)


def deals(handset: Handset) -> list[bytes]:
    """Take the roster hashes of the masks that a device has dealt since the last call."""
    return [message.roster_hash for message in handset.said() if isinstance(message, Dealt)]


def epoch_files(handset: Handset) -> list[str]:
    return [key for key in handset.flash if key.startswith((SHARE, ANSWER))]


def test_a_roster_is_stored_and_followed() -> None:
    given = enrolled()
    handset = handset_of(given)
    hear(handset, given.signed)
    assert handset.flash[ROSTER] == pack(given.signed)
    assert deals(handset) == [given.roster.hash]


def test_the_roster_is_stored_before_anything_is_said_under_it() -> None:
    given = enrolled()
    handset = handset_of(given)
    handset.log.clear()
    hear(handset, given.signed)
    said = [at for at, action in enumerate(handset.log) if isinstance(action, Publish)]
    stored = [at for at, action in enumerate(handset.log) if getattr(action, "key", "") == ROSTER]
    assert stored < said


def signed_anew(roster: Roster, **changes: object) -> SignedRoster:
    """A roster with other fields, signed by the enrolment key all the same."""
    changed = replace(roster, **changes)  # type: ignore[arg-type] # a test chooses any field
    return changed.signed(derive(SEED, "enrolment"))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("signature", refusals.BAD_SIGNATURE),
        ("enrolment", refusals.BAD_SIGNATURE),
        ("task", refusals.WRONG_ROSTER),
        ("cohort", refusals.WRONG_ROSTER),
        ("garbage", refusals.BAD_SIGNATURE),
    ],
)
def test_a_roster_that_is_not_ours_is_refused(what: str, reason: str) -> None:
    given = enrolled()
    signed = {
        "signature": replace(given.signed, signature=bytes(64)),
        "enrolment": enrolled(seed=bytes(32)).signed,
        "task": cohort(NAMES, "u", size=SIZE + 1).signed,
        "cohort": cohort(NAMES, name="others", size=SIZE + 1).signed,
        "garbage": SignedRoster(b"\xc1", bytes(64)),
    }[what]
    handset = handset_of(given)
    hear(handset, signed)
    assert ROSTER not in handset.flash
    assert deals(handset) == []
    assert handset.session.counts[f"refused_{reason}"] == 1


def stranger(member: RosterMember, task: str, epoch: int) -> RosterMember:
    """Somebody else's identity and epoch key under a member's name."""
    identity = b"\7" * 32
    endorsement = keys.sign(identity, keys.EPOCH_KEY, keys.endorsed(task, epoch, member.epoch_key))
    return replace(member, identity=keys.identity_public(identity), endorsement=endorsement)


def test_a_roster_that_gives_the_device_s_name_to_another_key_gives_it_no_seat() -> None:
    given = enrolled()
    others = given.roster.members[1:]
    member = stranger(given.roster.members[0], "t", 1)
    handset = handset_of(given)
    hear(handset, signed_anew(given.roster, members=(member, *others)))
    assert deals(handset) == []
    request = Circle().request({0: 1, 1: 1, 2: 1})
    handset.hear_in(request)
    assert handset.session.counts["refused_not_enrolled"] == 1


def test_without_the_epoch_s_secret_a_device_has_no_seat() -> None:
    given = enrolled(epoch=2)
    handset = handset_of(enrolled())  # keys for epoch 1 only
    hear(handset, given.signed)
    assert deals(handset) == []
    assert handset.flash[ROSTER] == pack(given.signed)


# --- epochs --------------------------------------------------------------------------------------


def test_an_earlier_epoch_never_comes_back_also_after_a_restart() -> None:
    first, second = enrolled(), enrolled(epoch=2)
    handset = handset_of(first, second)
    hear(handset, second.signed)
    assert deals(handset) == [second.roster.hash]
    hear(handset, first.signed)
    handset.reboot()
    handset.connect()
    hear(handset, first.signed)
    assert first.roster.hash not in deals(handset)
    assert handset.session.counts["rosters_gone_back"] == 1
    assert handset.flash[ROSTER] == pack(second.signed)


def test_a_second_roster_for_one_epoch_is_evidence_and_not_followed() -> None:
    first = enrolled()
    second = enrolled(("a", "b", "c", "d", "zoe"))
    handset = handset_of(first)
    hear(handset, first.signed)
    deals(handset)
    for _ in range(2):
        hear(handset, second.signed)
    assert deals(handset) == []
    assert handset.session.counts["conflicting_rosters"] == 1
    (key,) = (key for key in handset.flash if key.startswith(EVIDENCE))
    assert msgpack.unpackb(handset.flash[key]) == [
        "rosters",
        pack(first.signed),
        pack(second.signed),
    ]
    handset.reboot()
    handset.connect()
    hear(handset, second.signed)
    assert deals(handset) == []


def test_a_higher_epoch_erases_shares_answers_and_old_keys() -> None:
    circle = Circle()
    circle.join()
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    circle.ask("e", circle.request({index: one.counter for index, one in updates.items()}))
    handset = circle["e"]
    old = epoch_files(handset)
    assert any(key.startswith(ANSWER) for key in old)
    later = enrolled(epoch=2)
    circle.hear_roster(handset, later)
    assert not set(old) & handset.flash.keys()
    made = msgpack.unpackb(handset.flash[EPOCH_KEYS], strict_map_key=False)
    assert sorted(made) == [2, 3]
    assert b"".join(handset.flash.values()).find(circle.cohort.roster.hash) < 0


def test_evidence_outlives_the_epoch() -> None:
    first, later = enrolled(), enrolled(epoch=2)
    handset = handset_of(first, later)
    hear(handset, first.signed)
    hear(handset, enrolled(("a", "b", "c", "d", "zoe")).signed)
    hear(handset, later.signed)
    assert any(key.startswith(EVIDENCE) for key in handset.flash)


@pytest.mark.parametrize("num_actions", range(8))
def test_power_may_go_between_any_two_steps_of_an_epoch_s_change(num_actions: int) -> None:
    first, later = enrolled(), enrolled(epoch=2)
    handset = handset_of(first, later)
    hear(handset, first.signed)
    assert len(epoch_files(handset)) == 2
    handset.power = num_actions
    hear(handset, later.signed)
    handset.reboot()
    handset.connect()
    hear(handset, later.signed)
    assert handset.flash[ROSTER] == pack(later.signed)
    assert b"".join(handset.flash.values()).find(first.roster.hash) < 0
    assert len(epoch_files(handset)) == 2
    announced = birth(handset)["next_epoch"]
    assert isinstance(announced, dict)
    assert announced["epoch"] == 3


def test_keys_that_were_made_for_an_epoch_are_erased_when_it_is_over() -> None:
    handset = handset_of(enrolled())
    for epoch in (1, 2, 3):
        hear(handset, enrolled(epoch=epoch).signed)
        made = msgpack.unpackb(handset.flash[EPOCH_KEYS], strict_map_key=False)
        assert sorted(made) == [each for each in (epoch, epoch + 1) if each > 1]


def test_an_update_of_the_epoch_before_is_still_reported_until_it_is_settled() -> None:
    circle = Circle()
    circle.join()
    circle.reports("a", DELTA)
    pending = circle["a"].session.pending
    circle.hear_roster(circle["a"], enrolled(epoch=2))
    assert circle["a"].session.pending == pending


def test_shares_are_not_kept_without_a_seat() -> None:
    circle = Circle()
    circle.join()
    handset = Handset(name="zoe", keys=keys_of(enrolled(("a", "b", "zoe")), "zoe"))
    handset.connect()
    hear(handset, circle.cohort.signed)
    shares = Shares(circle.cohort.roster.hash, bytes(24), b"sealed")
    handset.receive(
        handset.topics.share("zoe", "a"), encode(shares, task="t", sender="a", counter=1)
    )
    assert handset.session.counts["refused_not_enrolled"] == 1
    assert epoch_files(handset) == []


# --- the next epoch's key ------------------------------------------------------------------------


def birth(handset: Handset) -> dict[str, object]:
    """What the device's birth said last."""
    info = [
        publish.payload
        for publish in handset.log
        if isinstance(publish, Publish) and handset.topics.parse(publish.topic).kind is Kind.INFO
    ]
    found = json.loads(info[-1])
    assert isinstance(found, dict)
    return found


def test_a_device_announces_an_endorsed_key_for_the_next_epoch_and_keeps_it() -> None:
    given = enrolled()
    handset = handset_of(given)
    assert "next_epoch" not in birth(handset)
    hear(handset, given.signed)
    announced = birth(handset)["next_epoch"]
    assert isinstance(announced, dict)
    public = bytes.fromhex(announced["key"])
    assert announced["epoch"] == 2
    keys.check_signature(
        given.roster.members[0].identity,
        keys.EPOCH_KEY,
        keys.endorsed("t", 2, public),
        bytes.fromhex(announced["endorsement"]),
    )
    handset.reboot()
    handset.connect()
    assert birth(handset)["next_epoch"] == announced
    made = msgpack.unpackb(handset.flash[EPOCH_KEYS], strict_map_key=False)
    assert keys.epoch_public(made[2]) == public


def test_a_key_is_stored_before_it_is_announced() -> None:
    given = enrolled()
    handset = handset_of(given)
    handset.log.clear()
    hear(handset, given.signed)
    actions = [getattr(action, "key", getattr(action, "topic", "")) for action in handset.log]
    assert actions.index(EPOCH_KEYS) < actions.index(handset.topics.info("a"))


def test_a_roster_of_announced_keys_is_followed() -> None:
    """From one epoch to the next without a visit: the operator reads births and signs."""
    circle = Circle()
    circle.join()
    members = []
    for handset in circle.handsets:
        announced = birth(handset)["next_epoch"]
        assert isinstance(announced, dict)
        members.append(
            RosterMember(
                handset.name,
                circle.member(handset.name).identity,
                bytes.fromhex(announced["key"]),
                bytes.fromhex(announced["endorsement"]),
            )
        )
    signed = signed_anew(circle.cohort.roster, epoch=2, members=tuple(members))
    circle.cohort = circle.cohort._replace(
        signed=signed, roster=replace(circle.cohort.roster, epoch=2, members=tuple(members))
    )
    for handset in circle.handsets:
        circle.hear_roster(handset)
    circle.settle()
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    request = circle.request({index: one.counter for index, one in updates.items()})
    for name in NAMES:
        assert [type(said) for said in circle.ask(name, request)] == [RecoveryAnswer]


def test_the_keys_file_goes_before_the_key_that_was_announced() -> None:
    first, second = enrolled(), enrolled(epoch=2)
    handset = handset_of(first, second)
    hear(handset, first.signed)
    announced = birth(handset)["next_epoch"]
    assert isinstance(announced, dict)
    assert announced["key"] == second.roster.members[0].epoch_key.hex()
    assert EPOCH_KEYS not in handset.flash


def test_holdings_say_whole_when_a_roster_is_new() -> None:
    given = enrolled()
    handset = handset_of(given)
    hear(handset, given.signed)
    handset.said()
    handset.wait()
    (holdings,) = [message for message in handset.said() if isinstance(message, Holdings)]
    assert holdings.whole == 1
    assert set(holdings.dealers) == {0}
