"""What is asked for again on a new connection, and what is not."""

import dataclasses
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.check_transport import settings
from tests.support.mosquitto import OPEN, PERSISTENT, Mosquitto, require_mosquitto
from tests.transport.paho_bus import PahoBus
from transport import Connected, SubscribeRefused
from transport.paho import PahoTransport
from transport.subscriptions import AWAY_S, MAX_LINGERING, RENEWED_S, SETTLED_S, Subscriptions


def connected(*, at: float = 0.0) -> Subscriptions:
    """Return filters a and b, both granted at that time."""
    subscriptions = Subscriptions()
    subscriptions.want(["a", "b"], 1)
    assert subscriptions.missing(at, session_present=False) == [(1, ["a", "b"])]
    for each in ("a", "b"):
        subscriptions.granted(each, at)
    return subscriptions


def asked_again(
    subscriptions: Subscriptions, lost: float, back: float, *, session_present: bool = True
) -> list[str]:
    subscriptions.connection_lost(lost)
    missing = subscriptions.missing(back, session_present=session_present)
    return [each for _, filters in missing for each in filters]


def test_a_kept_session_is_not_told_again() -> None:
    assert asked_again(connected(), SETTLED_S + 1, SETTLED_S + 2) == []


def test_a_new_session_is_told_everything() -> None:
    again = asked_again(connected(), SETTLED_S + 1, SETTLED_S + 2, session_present=False)
    assert again == ["a", "b"]


def test_what_is_wanted_again_is_asked_for_again() -> None:
    subscriptions = connected()
    subscriptions.want(["b"], 1)
    assert asked_again(subscriptions, SETTLED_S + 1, SETTLED_S + 2) == ["b"]


def test_what_a_broker_may_not_have_written_down_is_asked_for_again() -> None:
    subscriptions = connected()
    subscriptions.want(["late"], 1)
    subscriptions.granted("late", SETTLED_S)
    assert asked_again(subscriptions, SETTLED_S + 1, SETTLED_S + 2) == ["late"]


def test_what_was_not_answered_or_was_refused_is_asked_for_again() -> None:
    subscriptions = connected()
    subscriptions.want(["unanswered"], 1)
    subscriptions.refused("b")
    assert asked_again(subscriptions, SETTLED_S + 1, SETTLED_S + 2) == ["b", "unanswered"]


def test_after_a_long_absence_everything_is_asked_for_again() -> None:
    lost = SETTLED_S + 1
    assert asked_again(connected(), lost, lost + AWAY_S + 1) == ["a", "b"]


def test_what_a_broker_has_forgotten_comes_back_within_an_hour() -> None:
    subscriptions = connected()
    for minute in range(5, 60, 5):
        assert asked_again(subscriptions, 60.0 * minute, 60.0 * minute + 1) == []
    assert asked_again(subscriptions, RENEWED_S, RENEWED_S + 1) == ["a", "b"]
    assert asked_again(subscriptions, RENEWED_S + 2, RENEWED_S + 3) == ["a", "b"]  # no answer yet


def test_only_what_is_retained_can_be_ended_before_it_is_asked_for_again() -> None:
    subscriptions = connected()
    subscriptions.want(["state"], 1, retained=True)
    assert subscriptions.replaceable(["a", "state"]) == ["state"]
    subscriptions.want(["state"], 1)
    assert subscriptions.replaceable(["a", "state"]) == []


def test_the_answer_to_what_has_ended_grants_nothing() -> None:
    subscriptions = connected()
    assert subscriptions.end(["a", "never"]) == ["a"]
    subscriptions.granted("a", 1.0)
    subscriptions.want(["a"], 1)
    assert asked_again(subscriptions, SETTLED_S + 1, SETTLED_S + 2) == ["a"]


def test_what_a_broker_has_not_confirmed_to_have_ended_is_ended_again() -> None:
    subscriptions = connected()
    subscriptions.end(["a", "b", "never"])
    subscriptions.ended("a")
    for _ in range(2):
        subscriptions.connection_lost(1.0)
        assert subscriptions.lingering(session_present=True) == ["b"]
    subscriptions.ended("b")
    assert subscriptions.lingering(session_present=True) == []


def test_what_has_ended_and_is_wanted_again_is_not_ended_again() -> None:
    subscriptions = connected()
    subscriptions.end(["a"])
    subscriptions.want(["a"], 1)
    assert subscriptions.lingering(session_present=True) == []


def test_in_a_new_session_nothing_has_to_be_ended() -> None:
    subscriptions = connected()
    subscriptions.end(["a"])
    assert subscriptions.lingering(session_present=False) == []
    assert subscriptions.lingering(session_present=True) == []


def test_no_more_is_ended_again_than_there_is_room_for() -> None:
    subscriptions = Subscriptions()
    many = [str(number) for number in range(MAX_LINGERING + 10)]
    subscriptions.want(many, 1)
    subscriptions.end(many)
    assert subscriptions.lingering(session_present=True) == many[10:]


def test_each_quality_of_service_is_asked_for_apart() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(["one"], 1)
    subscriptions.want(["zero"], 0)
    assert subscriptions.missing(0.0, session_present=False) == [(0, ["zero"]), (1, ["one"])]


@given(
    snapshot=st.floats(0, 1_000),
    granted=st.floats(0, 1_000),
    died=st.floats(0, 61),
    noticed=st.floats(0, 135),
)
def test_no_broker_that_writes_down_its_state_once_a_minute_leaves_us_deaf(
    snapshot: float, granted: float, died: float, noticed: float
) -> None:
    """It dies within a minute of its last snapshot; we notice within two keep-alives of 60 s."""
    lost = snapshot + died + noticed
    subscriptions = connected(at=granted)
    again = asked_again(subscriptions, lost, lost + 1) if lost >= granted else ["a", "b"]
    assert again == ["a", "b"] or granted <= snapshot


def test_giving_up_an_attempt_to_connect_is_no_connection_lost() -> None:
    """Else a long absence would look like one of a moment."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        transport = PahoTransport(dataclasses.replace(settings("a"), port=port), random=lambda: 0.5)
        transport.subscribe(["news"])
        subscriptions, now = transport._flow.subscriptions, time.monotonic()
        subscriptions.granted("news", now - AWAY_S - SETTLED_S - 1)
        subscriptions.connection_lost(now - AWAY_S)
        transport.connect()
        transport.tick(now)
        transport.close(0.0)
    assert subscriptions.missing(now + 1, session_present=True) == [(1, ["news"])]


# --- over a real mosquitto, which logs each filter of each SUBSCRIBE ------------------------------


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits until a subscription is old."""
    monkeypatch.setattr("transport.subscriptions.SETTLED_S", 0.0)


@pytest.fixture
def logging_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("broker")
    with Mosquitto(
        folder, OPEN + "max_queued_messages 3\nlog_type subscribe\nlog_type unsubscribe\n"
    ) as running:
        yield running


def num_asked(broker: Mosquitto, client_id: str, topic_filter: str) -> int:
    wanted = f": {client_id} 1 {topic_filter}"
    return sum(line.endswith(wanted) for line in broker.log.splitlines())


def num_ended(broker: Mosquitto, client_id: str, topic_filter: str) -> int:
    wanted = f": {client_id} {topic_filter}"
    return sum(line.endswith(wanted) for line in broker.log.splitlines())


@pytest.mark.broker
@pytest.mark.usefixtures("keen")
def test_over_many_reconnections_mosquitto_is_asked_once(
    logging_broker: Mosquitto, protocol: str
) -> None:
    bus = PahoBus(logging_broker.port, protocol)
    reader = bus.connected(settings("reader"), "a", "state")
    guest = bus.connected(settings("guest", clean_start=True), "a")
    for _ in range(5):
        bus.reconnected(reader)
        bus.reconnected(guest)
    writer = bus.connected(settings("writer"))
    writer.transport.publish("a", b"heard")
    bus.until(lambda: reader.payloads == guest.payloads == [b"heard"])
    bus.close()
    present = [e.session_present for e in reader.events if isinstance(e, Connected)]
    assert present == [False, *[True] * 5]
    assert num_asked(logging_broker, "reader", "a") == 1
    assert num_asked(logging_broker, "reader", "state") == 1
    assert num_asked(logging_broker, "guest", "a") == 6


@pytest.mark.broker
def test_over_a_kept_session_what_is_retained_is_ended_before_it_is_asked_for_again(
    logging_broker: Mosquitto, protocol: str
) -> None:
    """For mosquitto 2.0 keeps memory of each filter that a session repeats. Nothing is missed."""
    bus = PahoBus(logging_broker.port, protocol)
    writer = bus.connected(settings("writer"))
    writer.transport.publish("state", b"on", retain=True)
    reader = bus.connected(settings("reader"), "in")
    reader.transport.subscribe(["state"], retained=True)
    bus.until(lambda: reader.payloads == [b"on"])
    reader.acknowledge_all()
    bus.settle(reader)
    bus.reconnected(reader)
    bus.until(lambda: reader.payloads == [b"on", b"on"])
    reader.transport.subscribe(["state"], retained=True)
    bus.until(lambda: reader.payloads == [b"on", b"on", b"on"])
    for topic in ("in", "state"):
        writer.transport.publish(topic, b"new")
    bus.until(lambda: reader.payloads[3:] == [b"new", b"new"])
    bus.close()
    assert num_asked(logging_broker, "reader", "in") == 2
    assert num_asked(logging_broker, "reader", "state") == 3
    assert num_ended(logging_broker, "reader", "state") == 2
    assert num_ended(logging_broker, "reader", "in") == 0


@pytest.mark.broker
@pytest.mark.usefixtures("keen")
@pytest.mark.parametrize("long", [False, True])
def test_retained_news_that_a_full_queue_dropped_is_learned_after_a_long_absence(
    logging_broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, *, long: bool
) -> None:
    if long:
        monkeypatch.setattr("transport.subscriptions.AWAY_S", 0.0)
    bus = PahoBus(logging_broker.port)
    reader = bus.connected(settings("reader"), "state")
    writer = bus.connected(settings("writer", send_window=1))
    reader.transport.close()
    for number in range(200):
        writer.transport.publish("state", b"%d" % number, retain=True)
    bus.settle(writer)
    reader.transport.connect()
    bus.until(lambda: reader.num_connects == 2)
    bus.settle(reader)
    bus.close()
    # without asking again the newest is lost: the queue keeps the oldest
    assert (b"199" in reader.payloads) is long


@pytest.mark.broker
def test_a_broker_that_died_before_it_wrote_a_subscription_down_is_told_again(
    tmp_path_factory: pytest.TempPathFactory, protocol: str
) -> None:
    require_mosquitto()
    unsaved = PERSISTENT.replace("autosave_on_changes true", "autosave_on_changes false").replace(
        "autosave_interval 1", "autosave_interval 1800"
    )
    with Mosquitto(tmp_path_factory.mktemp("broker"), unsaved) as broker:
        bus = PahoBus(broker.port, protocol)
        reader = bus.connected(settings("reader"), "old")
        broker.stop()  # writes it down
        bus.until(lambda: reader.num_disconnects == 1)
        broker.start()
        bus.until(lambda: reader.transport.connected)
        reader.transport.subscribe(["new"])
        bus.settle(reader)
        broker.kill()
        bus.until(lambda: reader.num_disconnects == 2)
        broker.start()
        bus.until(lambda: reader.transport.connected)
        bus.settle(reader)
        writer = bus.connected(settings("writer"))
        writer.transport.publish("new", b"heard")
        bus.until(lambda: reader.payloads == [b"heard"])
        bus.close()
    present = [e.session_present for e in reader.events if isinstance(e, Connected)]
    assert present == [False, True, True]


@pytest.mark.broker
@pytest.mark.usefixtures("keen")
def test_a_right_that_was_taken_away_stays_away_without_asking_again(
    tmp_path_factory: pytest.TempPathFactory, protocol: str
) -> None:
    require_mosquitto()
    folder = tmp_path_factory.mktemp("broker")
    rights = folder / "acl"
    rights.write_text("topic readwrite #\n")
    config = OPEN + f"acl_file {rights}\nlog_type subscribe\nlog_type information\n"
    with Mosquitto(folder, config) as broker:
        bus = PahoBus(broker.port, protocol)
        reader = bus.connected(settings("reader"), "secret", "open")
        writer = bus.connected(settings("writer"))
        rights.write_text("topic readwrite open\ntopic readwrite probe/+\ntopic write secret\n")
        broker.reload()
        bus.reconnected(reader)
        writer.transport.publish("secret", b"unheard")
        writer.transport.publish("open", b"heard")
        bus.until(lambda: b"heard" in reader.payloads)
        assert num_asked(broker, "reader", "secret") == 1
        rights.write_text("topic readwrite #\n")
        broker.reload()
        bus.reconnected(reader)
        writer.transport.publish("secret", b"heard again")
        bus.until(lambda: b"heard again" in reader.payloads)
        bus.close()
    assert b"unheard" not in reader.payloads
    assert not any(isinstance(event, SubscribeRefused) for event in reader.events)
