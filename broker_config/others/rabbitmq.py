"""RabbitMQ with its MQTT plugin: every account by its certificate, rights by routing key.

RabbitMQ has no word for "the account's own name" in the rights that it imports, so that every
device is listed. Without topic rights an account might do everything: each has them.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from broker_config.accounts import SERVICES
from broker_config.others.wanted import MADE, Wanted

_CONFIG: Final = """\
# {made}
# Clients of AMQP: on this machine only
listeners.tcp.local = 127.0.0.1:5672
mqtt.listeners.tcp = none
mqtt.listeners.ssl.default = {port}

ssl_options.cacertfile = ca.crt
ssl_options.certfile = broker.crt
ssl_options.keyfile = broker.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2

# The common name of the certificate is the account; nobody is anonymous
mqtt.ssl_cert_login = true
ssl_cert_login_from = common_name
mqtt.allow_anonymous = false

# The aggregator acknowledges after a commit: this many may wait for one
mqtt.prefetch = 2000
# Sessions of who is away: 14 days
mqtt.subscription_ttl = 1209600000
mqtt.vhost = /
mqtt.exchange = amq.topic

# Accounts and rights
load_definitions = definitions.json
"""
_PLUGINS: Final = "[rabbitmq_mqtt].\n"
_QUEUES: Final = r"^mqtt-subscription-[A-Za-z0-9_-]+qos[01]$"
_QUEUES_AND_EXCHANGE: Final = r"^(amq\.topic|mqtt-subscription-[A-Za-z0-9_-]+qos[01])$"
_LEVEL: Final = "[^.#]+"
_NO_PASSWORD_FITS: Final = ""
Row = dict[str, Any]  # as JSON has it


def render(wanted: Wanted) -> dict[str, str]:
    """Return the configuration, the accounts with their rights, and the list of plugins."""
    return {
        "rabbitmq.conf": _CONFIG.format(made=MADE, port=wanted.port),
        "definitions.json": _definitions(wanted),
        "enabled_plugins": _PLUGINS,
    }


def _definitions(wanted: Wanted) -> str:
    accounts = (*SERVICES, *wanted.devices)
    state = {
        "vhosts": [{"name": "/"}],
        "users": [_user(name) for name in accounts],
        "permissions": [_queues(name) for name in accounts],
        "topic_permissions": [_topics(wanted, name) for name in accounts],
    }
    return json.dumps(state, indent=1) + "\n"


def _user(name: str) -> Row:
    """An account without a password: a certificate is the only way in."""
    return {"name": name, "password_hash": _NO_PASSWORD_FITS, "tags": ""}


def _queues(name: str) -> Row:
    """What a subscription needs: a queue of one's own, bound to the exchange of all topics."""
    return {
        "user": name,
        "vhost": "/",
        "configure": _QUEUES,
        "write": _QUEUES_AND_EXCHANGE,
        "read": _QUEUES_AND_EXCHANGE,
    }


def _topics(wanted: Wanted, name: str) -> Row:
    return {
        "user": name,
        "vhost": "/",
        "exchange": "amq.topic",
        "write": pattern(wanted.topics(name, "write")),
        "read": pattern(wanted.topics(name, "read")),
    }


def pattern(filters: Iterable[str]) -> str:
    """Return the regular expression of the routing keys that these filters match.

    An empty one would match everything, so that no filter gives one that matches nothing.
    """
    keys = ["\\.".join(_level(level) for level in each.split("/")) for each in filters]
    return f"^({'|'.join(keys)})$" if keys else "^$"


def _level(level: str) -> str:
    return _LEVEL if level == "+" else level
