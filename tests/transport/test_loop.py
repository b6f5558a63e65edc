"""The loop alone, over transports that are plain sockets."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.check_transport import settings
from tests.support.fake_broker import FakeBroker, Peer
from transport import Connected
from transport.loop import Loop
from transport.paho import PahoTransport


def welcome(peer: Peer) -> None:
    peer.accept()
    peer.wait_for_end()


@pytest.fixture
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


def connect(loop: Loop, port: int) -> PahoTransport:
    transport = PahoTransport(dataclasses.replace(settings("a"), port=port), random=lambda: 0.5)
    loop.add(transport)
    transport.connect()
    return transport


def test_an_empty_loop_waits_as_long_as_asked(loop: Loop) -> None:
    began = time.monotonic()
    assert loop.wait(0.05) == []
    assert time.monotonic() - began >= 0.05


def test_wake_from_another_thread_ends_the_wait(loop: Loop) -> None:
    began = time.monotonic()
    waker = threading.Timer(0.01, loop.wake)
    waker.start()
    assert loop.wait(30.0) == []
    assert time.monotonic() - began < 10.0
    waker.join()


def test_many_wakes_are_one(loop: Loop) -> None:
    for _ in range(10_000):
        loop.wake()
    for _ in range(100):
        loop.wait(0.0)
    began = time.monotonic()
    loop.wait(0.02)
    assert time.monotonic() - began >= 0.02


def test_an_idle_connection_costs_nothing(loop: Loop) -> None:
    """No spinning: an idle wait is one or two rounds of the selector."""
    with FakeBroker([welcome]) as broker:
        transport = connect(loop, broker.port)
        while not transport.connected:
            loop.wait(1.0)
        loop.wait(0.01)
        rounds = count_calls(loop)
        loop.wait(0.1)
        assert rounds() <= 2
        transport.close()


def count_calls(loop: Loop) -> Callable[[], int]:
    calls: list[float] = []
    original = loop._selector.select

    def select(timeout: float | None = None) -> object:
        calls.append(time.monotonic())
        return original(timeout)

    loop._selector.select = select  # type: ignore[method-assign, assignment] # only counts
    return lambda: len(calls)


def test_a_removed_transport_is_left_alone(loop: Loop) -> None:
    with FakeBroker([welcome]) as broker:
        transport = connect(loop, broker.port)
        while not transport.connected:
            loop.wait(1.0)
        loop.remove(transport)
        transport.subscribe(["a"])
        assert loop.wait(0.01) == []
        transport.close()


def test_a_closed_transport_may_connect_again(loop: Loop) -> None:
    with FakeBroker([welcome]) as broker:
        transport = connect(loop, broker.port)
        for _ in range(2):
            transport.connect()
            while not transport.connected:
                loop.wait(1.0)
            transport.close()
            assert not transport.connected
        assert transport.counters.connected == 2


def test_events_name_their_transport(loop: Loop) -> None:
    with FakeBroker([welcome]) as broker:
        transport = connect(loop, broker.port)
        happened = loop.wait(5.0)
        assert [each for each, _ in happened] == [transport]
        assert isinstance(happened[0][1][0], Connected)
        transport.close()


def test_a_closed_descriptor_is_watched_no_more(loop: Loop) -> None:
    """Its number may belong to somebody else by the next round."""

    def accept_and_close(peer: Peer) -> None:
        peer.accept()

    with FakeBroker([accept_and_close]) as broker:
        transport = connect(loop, broker.port)
        while transport.counters.connected == 0 or transport.connected:
            loop.wait(1.0)
        assert [key.data for key in loop._selector.get_map().values()] == [None]
        transport.close()
