"""One selector loop for thousands of transports, in the thread that calls `Loop.wait`."""

import heapq
import itertools
import selectors
import socket
import time
from collections.abc import Callable
from typing import Final

from transport.interface import Event, Pollable

_WAKE_BYTES: Final = 4_096


class Loop:
    """Waits on all transports at once. Only `wake` may be called from another thread.

    A transport says when its descriptor, interest or deadline changed, so that a round costs what
    happened in it and not the number of transports.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._registered: dict[Pollable, tuple[int, int]] = {}
        self._deadlines: list[tuple[float, int, Pollable]] = []
        self._scheduled: dict[Pollable, float] = {}
        self._order = itertools.count()
        self._changed: dict[Pollable, None] = {}
        self._pending: dict[Pollable, None] = {}
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._selector.register(self._woken, selectors.EVENT_READ, None)

    def add(self, transport: Pollable) -> None:
        """Drive this transport from now on."""
        self._scheduled[transport] = float("inf")
        transport.attach(self._note)
        self._note(transport)

    def remove(self, transport: Pollable) -> None:
        """Stop driving it."""
        transport.attach(None)
        self._unregister(transport)
        self._scheduled.pop(transport, None)
        self._changed.pop(transport, None)
        self._pending.pop(transport, None)

    def wake(self) -> None:
        """Make `wait` return soon. From any thread."""
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # it is waking up already

    def wait(self, timeout_s: float) -> list[tuple[Pollable, list[Event]]]:
        """Return what happened, as soon as something has, or nothing after ``timeout_s``.

        Events that are returned come in order for each transport. Returns early, perhaps with
        nothing, after `wake`.
        """
        until = self._clock() + timeout_s
        while True:
            touched, woken = self._round(until)
            happened = [
                (transport, events) for transport in touched if (events := transport.events())
            ]
            if happened or woken or self._clock() >= until:
                self._settle(self._clock())
                return happened

    def close(self) -> None:
        """Let go of everything; the transports stay as they are."""
        for transport in list(self._scheduled):
            self.remove(transport)
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _round(self, until: float) -> tuple[dict[Pollable, None], bool]:
        """One pass: what waits to be sent, what the selector has, what is due."""
        touched = self._settle(self._clock())
        ready, woken = self._select(until)
        now = self._clock()
        to_read = dict(self._pending)
        for transport, mask in ready:
            touched[transport] = None
            if mask & selectors.EVENT_WRITE:
                transport.writable(now)
            if mask & selectors.EVENT_READ:
                to_read[transport] = None
        for transport in to_read:
            touched[transport] = None
            transport.readable(now)
        for transport in self._due(now):
            touched[transport] = None
            transport.tick(now)
        self._changed |= touched
        return touched, woken

    def _select(self, until: float) -> tuple[list[tuple[Pollable, int]], bool]:
        timeout_s = 0.0 if self._pending else max(0.0, min(until, self._next()) - self._clock())
        ready = []
        woken = False
        for key, mask in self._selector.select(timeout_s):
            if key.data is None:
                self._woken.recv(_WAKE_BYTES)
                woken = True
            else:
                ready.append((key.data, mask))
        return ready, woken

    def _settle(self, now: float) -> dict[Pollable, None]:
        """Try at once to send what was queued; then note what each transport waits for."""
        changed, self._changed = self._changed, {}
        for transport in changed:
            if transport not in self._scheduled:
                continue
            if transport.wants_write:
                transport.writable(now)
            self._register(transport)
            self._schedule(transport)
            if transport.pending:
                self._pending[transport] = None
            else:
                self._pending.pop(transport, None)
        return changed

    def _note(self, transport: Pollable) -> None:
        self._changed[transport] = None
        known = self._registered.get(transport)
        if known is not None and known[0] != transport.fileno():
            self._unregister(transport)  # before the number of the closed descriptor is used again

    def _register(self, transport: Pollable) -> None:
        fd = transport.fileno()
        mask = transport.wants_read * selectors.EVENT_READ
        mask |= transport.wants_write * selectors.EVENT_WRITE
        known = self._registered.get(transport)
        if known == (fd, mask):
            return
        if fd < 0 or not mask:
            self._unregister(transport)
            return
        if known is None:
            self._selector.register(fd, mask, transport)
        else:
            self._selector.modify(fd, mask, transport)
        self._registered[transport] = (fd, mask)

    def _unregister(self, transport: Pollable) -> None:
        known = self._registered.pop(transport, None)
        if known is not None:
            self._selector.unregister(known[0])

    def _schedule(self, transport: Pollable) -> None:
        deadline = transport.deadline
        if deadline == self._scheduled[transport]:
            return
        self._scheduled[transport] = deadline
        if deadline != float("inf"):
            heapq.heappush(self._deadlines, (deadline, next(self._order), transport))

    def _next(self) -> float:
        """Return the earliest deadline that still holds."""
        while self._deadlines:
            deadline, _, transport = self._deadlines[0]
            if self._scheduled.get(transport) == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return float("inf")

    def _due(self, now: float) -> list[Pollable]:
        due = []
        while self._next() <= now:
            transport = heapq.heappop(self._deadlines)[2]
            self._scheduled[transport] = float("inf")
            due.append(transport)
        return due
