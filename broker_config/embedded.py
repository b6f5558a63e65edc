"""The embedded broker: amqtt on the files of `broker_config.files`, in a process of its own.

``python -m broker_config.embedded DIRECTORY --port N``. It speaks MQTT 3.1.1 only, keeps nothing
over a restart and bounds no queue: for demonstrations and tests where mosquitto is missing.
"""

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from amqtt.broker import Broker
from amqtt.session import Session

from protocol.topics import DEFAULT_PREFIX


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="broker_config.embedded", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--prefix", default=DEFAULT_PREFIX)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # accounts are read at every connect
    bind = f"{options.host}:{options.port}"
    asyncio.run(_serve(configuration(options.directory, bind, options.prefix)))


def configuration(directory: Path, bind: str, prefix: str) -> dict[str, object]:
    """Return amqtt's configuration: one listener, our accounts, our rules, no other plugin."""
    rules = "broker_config.embedded_rules"
    return {
        "listeners": {"default": {"type": "tcp", "bind": bind}},
        "plugins": {
            f"{rules}.Accounts": {"directory": str(directory)},
            f"{rules}.TopicRights": {"prefix": prefix},
        },
    }


class _DiscreetBroker(Broker):  # type: ignore[misc]  # amqtt ships no types
    """At every connect, amqtt 0.12 sends the retained messages of everybody's subscriptions."""

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        subscribers = self._subscriptions.get(subscription[0], [])
        if any(subscriber is session for subscriber, _ in subscribers):
            await super()._publish_retained_messages_for_subscription(subscription, session)


async def _serve(config: dict[str, object]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    broker = _DiscreetBroker(config)
    await broker.start()
    await stopped.wait()
    await broker.shutdown()


if __name__ == "__main__":
    main()
