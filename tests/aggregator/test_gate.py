"""What the aggregator believes: the operator's word for a key, and that key's signature."""

from collections.abc import Mapping

import pytest

from aggregator.gate import CERTIFICATE, Gate, Heard, Trust
from protocol import refusals
from protocol.codec import encode
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.identity import Certificate, Signer, certify, identity_public, seal
from protocol.messages import CheckIn, UpdateChunk
from protocol.topics import Topics

TOPICS = Topics("fedbus/1", "t")
OPERATOR, OWN = bytes(range(32)), bytes(range(1, 33))
ADA, BEN = bytes(range(2, 34)), bytes(range(3, 35))
PREFIX = "fedbus/1"
ALLOWED = (CheckIn, UpdateChunk)
OUT = TOPICS.out("ada")
CHUNK = UpdateChunk(bytes(16), 0, 0, 1, b"")


def trust(*, required: bool = True) -> Trust:
    return Trust(OWN, identity_public(OPERATOR), required)


def gate(
    documents: Mapping[str, bytes] | None = None, *, required: bool = True, enrolled: bytes = b""
) -> Gate:
    return Gate(TOPICS, trust(required=required), documents or {}, lambda _: enrolled)


def certificate(
    identity: bytes = ADA, *, device: str = "ada", serial: int = 1, operator: bytes = OPERATOR
) -> bytes:
    return certify(Certificate("t", device, identity_public(identity), serial), operator)


def check_in(shown: bytes = b"") -> CheckIn:
    return CheckIn(bytes(16), -1, 10, (), certificate=shown)


def hear(
    own: Gate,
    message: CheckIn | UpdateChunk,
    counter: int = 5,
    *,
    secret: bytes | None = ADA,
    topic: str = OUT,
    signed_for: str = "",
) -> Heard[CheckIn | UpdateChunk]:
    signer = None if secret is None else Signer(secret, PREFIX)
    payload = encode(
        message,
        task="t",
        sender="ada",
        counter=counter,
        sign=None if signer is None else signer.on(signed_for or topic),
        key_id=b"" if signer is None else signer.key_id,
    )
    return own.open(topic, TOPICS.parse(topic), payload, ALLOWED)


def refused(own: Gate, message: CheckIn | UpdateChunk, **how: object) -> str:
    with pytest.raises(RemoteProtocolError) as error:
        hear(own, message, **how)  # type: ignore[arg-type] # as hear takes them
    return error.value.reason


def test_a_device_is_known_by_the_certificate_that_it_shows_and_from_then_on() -> None:
    own = gate()
    assert refused(own, check_in()) == refusals.UNKNOWN_KEY
    heard = hear(own, check_in(certificate()))
    assert heard.identity == identity_public(ADA)
    assert heard.record is not None
    assert heard.record.key == f"{CERTIFICATE}ada"
    assert hear(own, check_in()).record is None
    restarted = gate({heard.record.key: heard.record.data})
    assert hear(restarted, CHUNK, topic=TOPICS.update(0, "ada")).identity == identity_public(ADA)


@pytest.mark.parametrize(
    "shown",
    [
        certificate(BEN),
        certificate(device="ben"),
        certificate(operator=OWN),
        b"garbage",
    ],
)
def test_a_certificate_of_another_key_device_or_operator_is_not_believed(shown: bytes) -> None:
    own = gate()
    refused(own, check_in(shown))
    assert refused(own, check_in()) == refusals.UNKNOWN_KEY


def test_a_new_certificate_takes_the_place_of_an_old_one_and_never_the_other_way() -> None:
    own = gate()
    hear(own, check_in(certificate()))
    assert refused(own, check_in(), secret=BEN) == refusals.UNKNOWN_KEY
    hear(own, check_in(certificate(BEN, serial=2)), secret=BEN)
    assert refused(own, check_in(certificate())) == refusals.BAD_SIGNATURE
    assert refused(own, check_in()) == refusals.UNKNOWN_KEY
    assert hear(own, check_in(), secret=BEN).identity == identity_public(BEN)


def test_what_was_kept_of_another_operators_is_asked_for_anew() -> None:
    own = gate({f"{CERTIFICATE}ada": certificate(operator=OWN)})
    assert refused(own, check_in()) == refusals.UNKNOWN_KEY


def test_a_signature_is_needed_and_for_this_topic() -> None:
    own = gate()
    hear(own, check_in(certificate()))
    assert refused(own, check_in(), secret=None) == refusals.BAD_SIGNATURE
    elsewhere = TOPICS.out("ben")
    assert refused(own, check_in(), signed_for=elsewhere) == refusals.BAD_SIGNATURE


def test_an_update_that_was_sent_before_is_replayed() -> None:
    own, topic = gate(), TOPICS.update(0, "ada")
    hear(own, check_in(certificate()))
    hear(own, CHUNK, 6, topic=topic)
    for counter in (5, 6):
        assert refused(own, CHUNK, counter=counter, topic=topic) == refusals.REPLAYED


def test_a_roster_names_a_key_as_well_as_a_certificate() -> None:
    own = gate(enrolled=identity_public(ADA))
    assert hear(own, check_in()).identity == identity_public(ADA)
    assert refused(own, check_in(), secret=BEN) == refusals.UNKNOWN_KEY


def test_in_a_trial_devices_without_keys_are_believed_and_those_with_keys_must_use_them() -> None:
    own = gate(required=False)
    assert hear(own, check_in(), secret=None).identity == b""
    assert hear(own, check_in()).identity == b""  # of a key that nobody knows
    hear(own, check_in(certificate()))
    assert refused(own, check_in(), secret=None) == refusals.BAD_SIGNATURE


def test_what_was_sealed_is_read_by_this_aggregator_alone() -> None:
    sealed = seal(b"an update", identity_public(OWN), bytes(32), bytes(16))
    assert gate().unseal(sealed, bytes(16)) == b"an update"
    for own, data in ((gate(), b"short"), (Gate(TOPICS, None, {}), sealed)):
        with pytest.raises(RemoteProtocolError, match="sealed"):
            own.unseal(data, bytes(16))


def test_keys_have_their_length_and_show_themselves_nowhere() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Trust(OWN[:-1], identity_public(OPERATOR))
    assert repr(OWN)[2:10] not in repr(trust())
