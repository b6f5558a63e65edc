"""Whole federations in one process and in virtual time: the production session and coordinator.

`World` joins a virtual clock, an in-memory broker, an aggregator and devices. Nothing here reads a
clock or an entropy source, so that the same seed and the same calls give the same bytes.
"""

from simulator.availability import Always, Availability, Diurnal, Trace, read_trace
from simulator.broker import Broker
from simulator.broker_limits import BrokerLimits
from simulator.broker_session import Flight
from simulator.device import SimulatedDevice
from simulator.dry import DryTrainer
from simulator.links import Link, LinkProfile, Outage
from simulator.memory_store import MemoryStore
from simulator.queue import EventQueue, Scheduled
from simulator.remote import TrainRemote
from simulator.server import SimulatedServer
from simulator.transport import MemoryTransport
from simulator.world import World

__all__ = [
    "Always",
    "Availability",
    "Broker",
    "BrokerLimits",
    "Diurnal",
    "DryTrainer",
    "EventQueue",
    "Flight",
    "Link",
    "LinkProfile",
    "MemoryStore",
    "MemoryTransport",
    "Outage",
    "Scheduled",
    "SimulatedDevice",
    "SimulatedServer",
    "Trace",
    "TrainRemote",
    "World",
    "read_trace",
]
