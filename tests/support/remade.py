"""Machines of a real run, recorded together with their secrets, so that they can be made anew.

For tests alone. With the seed, the keys and the present of a machine everything that it masked,
sealed or signed can be made again: they stay in the memory of the test that asked, and go into no
file (`simulator.trace` writes what a machine was told and what it said).
"""

from collections.abc import Callable
from typing import Any

from aggregator.coordinator import Coordinator
from device_sdk.session import Session
from simulator import MemoryStore
from simulator.trace import Entry, record


class Remade:
    """One machine: what it was made from, what it was told, what it said."""

    def __init__(self, machine: type[Session | Coordinator], *args: Any, **kwargs: Any) -> None:
        """Keep what a machine is about to be made from; its storage will go on changing."""
        self._machine = machine
        self._args = args
        self._kwargs = (
            {**kwargs, "stored": dict(kwargs["stored"])} if "stored" in kwargs else kwargs
        )
        self.entries: list[Entry] = []

    @property
    def said(self) -> list[Entry]:
        """What the real one published, in order."""
        return [entry for entry in self.entries if entry.is_out]

    @property
    def seed(self) -> bytes:
        """What it drew all from that it drew."""
        seed = self._kwargs["seed"] if self._machine is Session else self._args[2]
        assert isinstance(seed, bytes)
        return seed

    def session(self, *, seed: bytes | None = None) -> Session:
        """Return one like it, from its seed or from another one."""
        assert self._machine is Session
        return Session(*self._args, **{**self._kwargs, "seed": seed or self.seed})

    def coordinator(self) -> tuple[Coordinator, MemoryStore]:
        """Return one like it, and the empty store that it begins with, as that one did."""
        config, snapshot, *rest = self._args
        store = MemoryStore(config.keep_versions)
        assert snapshot == store.snapshot()
        return Coordinator(config, store.snapshot(), *rest, **self._kwargs), store


def remaking(
    machine: type[Session | Coordinator], kept: list[Remade]
) -> Callable[..., Session | Coordinator]:
    """Return what makes machines as before, each recorded from its beginning."""

    def make(*args: Any, **kwargs: Any) -> Session | Coordinator:
        remade = Remade(machine, *args, **kwargs)
        made = machine(*args, **kwargs)
        record(made, remade.entries, exposed=True)
        kept.append(remade)
        return made

    return make
