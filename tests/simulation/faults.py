"""What an operation does to a world: to messages under way, to power, to stores."""

from collections.abc import Collection

from simulator import World
from simulator.broker import Broker
from tests.simulation.history import (
    Breakage,
    Deliver,
    Drop,
    Duplicate,
    FailStorage,
    FailStore,
    Reorder,
    RestartAggregator,
    RestartBroker,
    RestartDevice,
)


def meddle(broker: Broker, operation: Deliver | Drop | Duplicate | Reorder) -> None:
    """Do something to a message under way, if there is one."""
    flights = broker.flights
    if not flights:
        return
    flight = flights[operation.index % len(flights)]
    match operation:
        case Deliver():
            broker.land(flight)
        case Drop():
            broker.drop(flight)
        case Duplicate():
            broker.duplicate(flight, operation.later_s)
        case Reorder():
            broker.delay(flight, operation.later_s)


def break_something(world: World, operation: Breakage, living: Collection[str]) -> None:
    """Cut power or connections, or let a store fail; of devices only ``living`` ones."""
    match operation:
        case RestartDevice(name, after, down_s) if name in living:
            world.devices[name].lose_power(after=after, down_s=down_s)
        case RestartAggregator(after, down_s):
            world.server.lose_power(after=after, down_s=down_s)
        case RestartBroker(forget, down_s):
            world.broker.restart(forget=forget, down_s=down_s)
        case FailStore(kept):
            world.server.store.fail_next(kept=kept)
        case FailStorage(name) if name in living:
            world.devices[name].fail_next_write()
