"""nats-server with JetStream and MQTT: every account by its certificate, one list of rights each.

NATS speaks MQTT 3.1.1. It has no word for "the account's own name", so that every device is
listed; a reload (SIGHUP) takes a changed list in.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Final

from broker_config.accounts import SERVICES
from broker_config.others.wanted import MADE, Wanted

#: Where the server delivers what waits for a session: not ours to read, but asked for in our name.
_DELIVERY: Final = "$MQTT.sub.>"
_HEAD: Final = """\
# {made}
server_name: fedbus
# Clients of NATS itself: on this machine only
listen: 127.0.0.1:4222
max_payload: 262144
jetstream {{ store_dir: "data" }}

mqtt {{
  port: {port}
  tls {{
    cert_file: "broker.crt"
    key_file: "broker.key"
    ca_file: "ca.crt"
    verify_and_map: true
    timeout: 10
  }}
  # The aggregator acknowledges after a commit; at most 65535 a client
  max_ack_pending: 2000
  ack_wait: "5m"
}}

authorization {{
  timeout: 10
  users: [
"""
_TAIL: Final = "  ]\n}\n"


def render(wanted: Wanted) -> dict[str, str]:
    """Return ``nats-server.conf``; certificates lie beside it."""
    accounts = (*SERVICES, *wanted.devices)
    users = "".join(f"    {line}\n" for name in accounts for line in _user(wanted, name))
    return {"nats-server.conf": _HEAD.format(made=MADE, port=wanted.port) + users + _TAIL}


def subject(topic_filter: str) -> str:
    """Return what NATS calls a topic or filter."""
    words = {"+": "*", "#": ">"}
    return ".".join(words.get(level, level) for level in topic_filter.split("/"))


def _user(wanted: Wanted, name: str) -> Iterator[str]:
    yield f'{{ user: "CN={name}", permissions: {{'
    yield f"    publish: {{ allow: {_list(wanted.topics(name, 'write'))} }}"
    yield f"    subscribe: {{ allow: {_list(wanted.topics(name, 'read'), _DELIVERY)} }}"
    yield "} }"


def _list(topics: Iterable[str], *more: str) -> str:
    return json.dumps([*map(subject, topics), *more])
