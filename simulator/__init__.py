"""Whole federations in one process and in virtual time: the production session and coordinator.

`World` joins a virtual clock, an in-memory broker, an aggregator and devices. Nothing here reads a
clock or an entropy source, so that the same seed and the same calls give the same bytes.
"""

from simulator.broker import Broker, Flight
from simulator.device import SimulatedDevice
from simulator.memory_store import MemoryStore
from simulator.queue import EventQueue, Scheduled
from simulator.server import SimulatedServer
from simulator.transport import MemoryTransport
from simulator.world import World

__all__ = [
    "Broker",
    "EventQueue",
    "Flight",
    "MemoryStore",
    "MemoryTransport",
    "Scheduled",
    "SimulatedDevice",
    "SimulatedServer",
    "World",
]
