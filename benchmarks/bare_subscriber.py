"""A paho client that only receives: what the aggregator's ingest is held against.

``python -m benchmarks.bare_subscriber PORT USERNAME PASSWORD_FILE FILTER EVERY``. Plain paho with
its own loop and its own acknowledging, MQTT 5 like the aggregator. After every EVERY messages it
prints how many there have been, and when (monotonic seconds).
"""

import sys
import time
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion


def main(port: int, username: str, password: str, topic_filter: str, every: int) -> None:
    """Receive until killed."""
    count = 0

    def on_message(_client: Client, _userdata: object, _message: MQTTMessage) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            print(count, time.monotonic(), flush=True)

    client = Client(
        CallbackAPIVersion.VERSION2, "bare-subscriber", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.username_pw_set(username, password)
    client.on_message = on_message
    client.on_subscribe = lambda *_: print(0, time.monotonic(), flush=True)
    client.connect("127.0.0.1", port)
    client.subscribe(topic_filter, qos=1)
    client.loop_forever()


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        sys.argv[2],
        Path(sys.argv[3]).read_text(encoding="utf-8").strip(),
        sys.argv[4],
        int(sys.argv[5]),
    )
