"""AWS IoT Core: two policies a role. REGION and ACCOUNT are for the operator to fill in.

Every certificate is of the operator's authority, which is registered there; its common name is the
account. A policy takes MQTT's wildcards for plain characters and has ``*``, which matches slashes,
too. So the rules are for one task: with ``*`` in its place, ``*/roster/*`` would let every device
read what goes to a device called roster. What is wider otherwise has no topic of fedbus in it.
"""

import json
from typing import Any, Final

from broker_config.accounts import SERVICES
from broker_config.others.wanted import Wanted
from protocol.errors import ConfigError

OWN: Final = "${iot:Certificate.Subject.CommonName}"
MAX_CHARS: Final = 2_048
"""Of a policy, blanks not counted. Why there are two: one would be too long."""

_PLACE: Final = "arn:aws:iot:REGION:ACCOUNT"
_FILLED_IN: Final = 16  # what an ARN grows by: ap-southeast-2 for REGION, a number for ACCOUNT
Statement = dict[str, Any]  # as JSON has it


def render(wanted: Wanted) -> dict[str, str]:
    """Return what each service and what every device may write, and what it may read.

    Raises ConfigError unless ``wanted`` names one task, and if names are too long for AWS.
    """
    if wanted.task == "+":
        raise ConfigError("rules for AWS are for one task: say which, --task NAME")
    owners = {name: name for name in SERVICES} | {"device": OWN}
    files = {}
    for role, own in owners.items():
        files[f"{role}-writes.json"] = _writes(wanted.topics(own, "write"))
        files[f"{role}-reads.json"] = _reads(wanted.topics(own, "read"), wanted.prefix)
    for name, text in files.items():
        if len("".join(text.split())) + _FILLED_IN * text.count(_PLACE) > MAX_CHARS:
            raise ConfigError(f"{name} would be longer than AWS takes: shorten prefix or task")
    return files


def _writes(topics: list[str]) -> str:
    connect = _allow(["iot:Connect"], [f"{_PLACE}:client/*"])
    publish = _allow(["iot:Publish", "iot:RetainPublish"], _places("topic", topics))
    return _policy(connect, publish) if topics else _policy(connect)


def _reads(filters: list[str], prefix: str) -> str:
    """Who may not subscribe receives nothing: what may be received need not be told apart."""
    subscribe = _allow(["iot:Subscribe"], _places("topicfilter", filters))
    return _policy(subscribe, _allow(["iot:Receive"], [f"{_PLACE}:topic/{prefix}/*"]))


def _places(kind: str, filters: list[str]) -> list[str]:
    return [f"{_PLACE}:{kind}/{each.replace('+', '*')}" for each in filters]


def _policy(*statements: Statement) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=1) + "\n"


def _allow(actions: list[str], resources: list[str]) -> Statement:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
