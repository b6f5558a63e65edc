"""How long mosquitto answers nobody while it saves.

``python -m tests.broker_config.autosave_pauses`` prints, for some amounts of queued messages,
how long PUBACKs took over a few saves.
"""

import statistics
import tempfile
import time
from pathlib import Path

from broker_config.accounts import AGGREGATOR
from broker_config.running import Broker, running_broker
from tests.broker_config.bare_client import V3, BareClient, Login

QUEUED_MB = (1, 20, 200)
WATCHED_S = 10.0
PAYLOAD = bytes(60_000)
UPDATES = "fedbus/1/t/up/0/a"


def main() -> None:
    """Print one line an amount."""
    for megabytes in QUEUED_MB:
        with (
            tempfile.TemporaryDirectory() as folder,
            running_broker(Path(folder), ["a"], engine="mosquitto") as broker,
        ):
            times = puback_times(broker, megabytes)
            median, longest = statistics.median(times) * 1e3, max(times) * 1e3
            print(  # noqa: T201 - what this is for
                f"{megabytes:4} MB queued: PUBACK median {median:.2f} ms, longest {longest:.0f} ms"
            )


def puback_times(broker: Broker, megabytes: int) -> list[float]:
    """Return seconds per PUBACK, with this much waiting for a reader that is away."""
    aggregator, device = login(broker, AGGREGATOR), login(broker, "a")
    with BareClient(
        broker.port, protocol=V3, client_id="away", keeps_session=True, login=aggregator
    ) as away:
        away.subscribe(UPDATES)
    times = []
    with BareClient(broker.port, protocol=V3, login=device) as writer:
        writer.publish_all([(UPDATES, PAYLOAD)] * (megabytes * 1_000_000 // len(PAYLOAD)))
        until = time.monotonic() + WATCHED_S
        while (sent := time.monotonic()) < until:
            writer.publish("fedbus/1/t/dev/a/out")
            times.append(time.monotonic() - sent)
    return times


def login(broker: Broker, account: str) -> Login:
    """Return the name and password of an account."""
    return account, broker.files.secret(account).read_text().strip()


if __name__ == "__main__":
    main()
