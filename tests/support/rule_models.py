"""What the rule files of other brokers allow, by models of their rule languages.

Each model takes files by name and returns whether an account may ``write`` or ``read`` a topic or
filter. They know what the brokers' manuals say, and nothing of how the files are made.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping

from broker_config.accounts import AGGREGATOR, MONITOR, covers, role_of
from broker_config.others import aws

May = Callable[[str, str, str], bool]  # account, "write" or "read", topic or filter


def emqx_model(files: Mapping[str, str]) -> May:
    """First match decides; a subscription's filter is matched as if it were a topic."""
    term = re.compile(
        r'\{(allow|deny), (all|\{username, (?:\{re, )?"([^"]*)"\}?\})(?:, (publish|subscribe|all), '
        r"\[([^\]]*)\])?\}\.\n"
    )
    text = re.sub(r"(?m)^%%.*\n", "", files["fedbus.acl"])
    rules = list(term.finditer(text))
    assert "".join(rule[0] for rule in rules) == text  # nothing that the model does not know
    actions = {"write": {"publish", "all", None}, "read": {"subscribe", "all", None}}

    def may(name: str, access: str, topic: str) -> bool:
        for permission, who, user, action, listed in (rule.groups() for rule in rules):
            fits = user == name or (who.startswith("{username, {re") and re.match(user, name))
            if (who != "all" and not fits) or action not in actions[access]:
                continue
            filters = re.findall(r'"([^"]*)"', listed or '"#"')
            if any(emqx_matches(topic, each.replace("${username}", name)) for each in filters):
                return bool(permission == "allow")
        return False

    return may


def emqx_matches(name: str, topic_filter: str) -> bool:
    levels, wanted = name.split("/"), topic_filter.split("/")
    if wanted == ["#"]:
        return True
    return len(levels) == len(wanted) and all(
        want in ("+", level) for level, want in zip(levels, wanted, strict=True)
    )


def hivemq_model(files: Mapping[str, str]) -> May:
    """What no permission of the account's role allows is denied."""
    root = ET.fromstring(files["credentials.xml"])  # noqa: S314 - we made it
    roles = {user.findtext("name"): user.findtext("roles/id") for user in root.iter("user")}
    permissions = {
        role.findtext("id"): [
            (each.findtext("activity"), each.findtext("topic", ""))
            for each in role.iter("permission")
        ]
        for role in root.iter("role")
    }
    words = {"write": "PUBLISH", "read": "SUBSCRIBE"}

    def may(name: str, access: str, topic: str) -> bool:
        return any(
            activity == words[access] and covers(own.replace("${{username}}", name), topic)
            for activity, own in permissions[roles[name]]
        )

    return may


def aws_model(files: Mapping[str, str]) -> May:
    """A policy's ``*`` matches anything, MQTT's wildcards are plain characters to it."""
    statements = {
        role: [
            statement
            for kind in ("writes", "reads")
            for statement in json.loads(files[f"{role}-{kind}.json"])["Statement"]
        ]
        for role in (AGGREGATOR, MONITOR, "device")
    }

    def allows(name: str, action: str, resource: str) -> bool:
        return any(
            action in statement["Action"]
            and any(
                re.fullmatch(re.escape(each.replace(aws.OWN, name)).replace(r"\*", ".*"), resource)
                for each in statement["Resource"]
            )
            for statement in statements[role_of(name).value]
        )

    def may(name: str, access: str, topic: str) -> bool:
        place = "arn:aws:iot:REGION:ACCOUNT"
        if access == "write":
            return allows(name, "iot:Publish", f"{place}:topic/{topic}")
        return allows(name, "iot:Subscribe", f"{place}:topicfilter/{topic}")

    return may


def nats_model(files: Mapping[str, str]) -> May:
    """Lists of subjects a user; a subscription must lie within one."""
    found = re.findall(
        r'\{ user: "CN=([^"]*)", permissions: \{\n\s*publish: \{ allow: (\[.*\]) \}\n'
        r"\s*subscribe: \{ allow: (\[.*\]) \}\n",
        files["nats-server.conf"],
    )
    rights = {
        name: {"write": json.loads(write), "read": json.loads(read)} for name, write, read in found
    }

    def may(name: str, access: str, topic: str) -> bool:
        subjects = (each.replace(".", "/").replace("*", "+") for each in rights[name][access])
        return any(covers(subject, topic) for subject in subjects if ">" not in subject)

    return may


def rabbitmq_model(files: Mapping[str, str]) -> May:
    """Regular expressions on routing keys, and on the patterns of subscriptions."""
    state = json.loads(files["definitions.json"])
    rights = {row["user"]: row for row in state["topic_permissions"]}
    assert {row["name"] for row in state["users"]} == set(rights)

    def may(name: str, access: str, topic: str) -> bool:
        key = topic.replace("/", ".").replace("+", "*")
        return re.search(rights[name][access], key) is not None

    return may


def dynsec_model(files: Mapping[str, str]) -> May:
    """Roles of a client; what no rule allows is denied."""
    state = json.loads(files["dynamic-security.json"])
    assert not any(state["defaultACLAccess"][key] for key in ("publishClientSend", "subscribe"))
    roles = {role["rolename"]: role["acls"] for role in state["roles"]}
    clients = {
        client["username"]: [acl for role in client["roles"] for acl in roles[role["rolename"]]]
        for client in state["clients"]
    }
    words = {"write": {"publishClientSend"}, "read": {"subscribePattern"}}

    def may(name: str, access: str, topic: str) -> bool:
        granted = (acl["topic"] for acl in clients[name] if acl["acltype"] in words[access])
        return any(covers(each, topic) for each in granted)

    return may
