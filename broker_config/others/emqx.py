"""EMQX 5: every account by its certificate, one rule file for all.

The rules are read from the top, and the first that fits decides. ``${username}`` stands for the
account, so that a new device needs no new rule.
"""

from collections.abc import Iterable
from typing import Final

from broker_config.accounts import SERVICES
from broker_config.others.wanted import MADE, Wanted
from protocol.joining import NEWCOMER
from protocol.topics import Role

OWN: Final = "${username}"
_CONFIG: Final = """\
# {made}
# Goes behind EMQX's own base.hocon; fedbus.acl lies in its etc folder.

# Devices and services: each proves by its certificate who it is
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false
listeners.ssl.default {{
  bind = "0.0.0.0:{port}"
  ssl_options {{
    cacertfile = "etc/certs/ca.crt"
    certfile = "etc/certs/broker.crt"
    keyfile = "etc/certs/broker.key"
    verify = verify_peer
    fail_if_no_peer_cert = true
    versions = ["tlsv1.3", "tlsv1.2"]
  }}
}}

mqtt {{
  peer_cert_as_username = cn
  max_packet_size = 256KB
  # Nothing is dropped in silence below a million messages a client
  max_mqueue_len = 1000000
  mqueue_store_qos0 = false
  # The aggregator acknowledges after a commit: this many may wait for one
  max_inflight = 2000
  session_expiry_interval = 14d
}}

authorization {{
  no_match = deny
  deny_action = ignore
  sources = [{{ type = file, enable = true, path = "etc/fedbus.acl" }}]
}}
"""


def render(wanted: Wanted) -> dict[str, str]:
    """Return the configuration and the rules."""
    config = _CONFIG.format(made=MADE, port=wanted.port)
    return {"fedbus.hocon": config, "fedbus.acl": _rules(wanted)}


def _rules(wanted: Wanted) -> str:
    lines = [f"%% {MADE}"]
    for name in SERVICES:
        lines += _allowed(wanted, f'{{username, "{name}"}}', name)
        lines.append(f'{{deny, {{username, "{name}"}}, all, ["#"]}}.')
    newcomers = f'{{username, {{re, "^{NEWCOMER}"}}}}'
    lines += ["%% tokens", *_allowed(wanted, newcomers, OWN, Role.NEWCOMER)]
    lines.append(f'{{deny, {newcomers}, all, ["#"]}}.')
    lines += ["%% every device", *_allowed(wanted, "all", OWN), "{deny, all}."]
    return "\n".join(lines) + "\n"


def _allowed(wanted: Wanted, who: str, own: str, role: Role | None = None) -> Iterable[str]:
    for access, action in (("write", "publish"), ("read", "subscribe")):
        topics = wanted.topics(own, access, role)
        if topics:
            listed = ",\n  ".join(f'"{topic}"' for topic in topics)
            yield f"{{allow, {who}, {action}, [\n  {listed}]}}."
