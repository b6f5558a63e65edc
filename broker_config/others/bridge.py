"""A mosquitto at a site, bridged to the broker in the middle.

Devices of the site talk to their own broker, which keeps what they say while the line is down. The
bridge carries for each device what it may write (up) and read (down), and nothing else; to the
broker in the middle it is an account of its own, with the rights of its devices together.
"""

from collections.abc import Iterator
from typing import Final

from broker_config.others.wanted import MADE, Wanted

_DIRECTIONS: Final = {("write",): "out", ("read",): "in", ("read", "write"): "both"}
_HEAD: Final = """\
# {made}
# Goes behind the mosquitto.conf of the site's own broker.

connection {gateway}
address {host}:{port}
remote_clientid {gateway}
bridge_cafile ca.crt
bridge_certfile {gateway}.crt
bridge_keyfile {gateway}.key
bridge_tls_version tlsv1.2

# The same limits both ways, and nothing lost while the line is down
bridge_protocol_version mqttv50
cleansession false
local_cleansession false
try_private true
keepalive_interval 60
restart_timeout 5 120
start_type automatic
notifications true
notifications_local_only true

# What travels: up what devices may write, down what they may read
"""


def render_bridge(wanted: Wanted) -> str:
    """Return what the site's broker needs behind its own configuration."""
    head = _HEAD.format(made=MADE, gateway=wanted.gateway, host=wanted.host, port=wanted.port)
    return head + "".join(f"{line}\n" for line in _carried(wanted))


def render_gateway_rules(wanted: Wanted) -> str:
    """Return the access rules that the gateway needs at the broker in the middle.

    It is no device: what the rules for all devices would give it under its own name is denied.
    """
    words = {"out": "write", "in": "read", "both": "readwrite"}
    everybodys = {grant.filter for grant in wanted.device_grants("+")}
    own = dict.fromkeys(grant.filter for grant in wanted.device_grants(wanted.gateway))
    denied = (f"topic deny {topic}" for topic in own if topic not in everybodys)
    rules = (f"topic {words[way]} {topic}" for topic, way in _ways(wanted).items())
    return "\n".join([f"# {MADE}", f"user {wanted.gateway}", *denied, *rules]) + "\n"


def _carried(wanted: Wanted) -> Iterator[str]:
    for topic, way in _ways(wanted).items():
        yield f"topic {topic} {way} 1"


def _ways(wanted: Wanted) -> dict[str, str]:
    """Every filter of the site's devices, and which way its messages go."""
    accesses: dict[str, set[str]] = {}
    for device in wanted.devices:
        for grant in wanted.device_grants(device):
            accesses.setdefault(grant.filter, set()).add(grant.access)
    return {topic: _DIRECTIONS[tuple(sorted(access))] for topic, access in accesses.items()}
