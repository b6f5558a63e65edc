"""Rules for brokers that cannot be run here: judged by a model of each one's rule language.

Each model says what an account may write and read by the files alone. They are compared with
`broker_config.accounts.Rights`, on every topic there is and for filters of somebody nosy. A device
is called ``roster``, as a level is: rules whose wildcards match slashes fall for it.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR, MONITOR, Rights, covers, role_of
from broker_config.authority import Authority
from broker_config.checks.rights import probe_topics
from broker_config.others import aws, bridge, choice, dynsec, emqx, hivemq, nats, rabbitmq
from broker_config.others.wanted import Wanted
from fedbus.__main__ import main
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics, grants

DEVICES: Final = ("a", "roster")
ACCOUNTS: Final = (AGGREGATOR, MONITOR, *DEVICES)
WANTED: Final = Wanted(devices=DEVICES)
ONE_TASK: Final = Wanted(devices=DEVICES, task="t")
TOPICS: Final = sorted(
    {topic for name in ACCOUNTS for topic in probe_topics(Topics(DEFAULT_PREFIX, "t"), name)}
)
NOSY: Final = (
    "#",
    "fedbus/#",
    "fedbus/1/t/#",
    "fedbus/1/t/+",
    "fedbus/1/+/dev/+/in",
    "fedbus/1/t/dev/+/in",
    "fedbus/1/+/dev/roster/+",
    "fedbus/1/+/share/roster/+",
    "fedbus/1/t/share/+/+",
    "fedbus/1/t/+/roster/+",
    "fedbus/1/t/share/#",
    "+/+/+/+/+/+",
)
May = Callable[[str, str, str], bool]  # account, "write" or "read", topic or filter


# --- the models -----------------------------------------------------------------------------------


def emqx_model(files: dict[str, str]) -> May:
    """First match decides; a subscription's filter is matched as if it were a topic."""
    term = re.compile(
        r'\{(allow|deny), (all|\{username, "([^"]*)"\})(?:, (publish|subscribe|all), '
        r"\[([^\]]*)\])?\}\.\n"
    )
    text = re.sub(r"(?m)^%%.*\n", "", files["fedbus.acl"])
    rules = list(term.finditer(text))
    assert "".join(rule[0] for rule in rules) == text  # nothing that the model does not know
    actions = {"write": {"publish", "all", None}, "read": {"subscribe", "all", None}}

    def may(name: str, access: str, topic: str) -> bool:
        for permission, who, user, action, listed in (rule.groups() for rule in rules):
            if (who != "all" and user != name) or action not in actions[access]:
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


def hivemq_model(files: dict[str, str]) -> May:
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


def aws_model(files: dict[str, str]) -> May:
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


def nats_model(files: dict[str, str]) -> May:
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


def rabbitmq_model(files: dict[str, str]) -> May:
    """Regular expressions on routing keys, and on the patterns of subscriptions."""
    state = json.loads(files["definitions.json"])
    rights = {row["user"]: row for row in state["topic_permissions"]}
    assert {row["name"] for row in state["users"]} == set(rights)

    def may(name: str, access: str, topic: str) -> bool:
        key = topic.replace("/", ".").replace("+", "*")
        return re.search(rights[name][access], key) is not None

    return may


def dynsec_model(files: dict[str, str]) -> May:
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


@dataclass(frozen=True)
class Case:
    """The files of one broker as its model reads them."""

    may: May
    task: str = "+"


def case(name: str) -> Case:
    passwords = dict.fromkeys(ACCOUNTS, "secret")
    match name:
        case "emqx":
            return Case(emqx_model(emqx.render(WANTED)))
        case "hivemq":
            return Case(hivemq_model(hivemq.render(WANTED, passwords, b"salt")))
        case "aws":
            return Case(aws_model(aws.render(ONE_TASK)), task="t")
        case "nats":
            return Case(nats_model(nats.render(WANTED)))
        case "rabbitmq":
            return Case(rabbitmq_model(rabbitmq.render(WANTED)))
        case _:
            state = dynsec.render_state(WANTED, "secret", b"salt")
            return Case(dynsec_model({"dynamic-security.json": state}))


MODELS: Final = ("emqx", "hivemq", "aws", "nats", "rabbitmq", "dynsec")


@pytest.mark.parametrize("name", MODELS)
def test_an_account_may_what_the_rules_say_and_nothing_else(name: str) -> None:
    found, rights = case(name), Rights(DEFAULT_PREFIX)
    asked = [
        (account, access, topic)
        for account in ACCOUNTS
        for access in ("write", "read")
        for topic in TOPICS
    ]
    assert [each for each in asked if found.may(*each) != rights.may(*each)] == []


@pytest.mark.parametrize("name", MODELS)
def test_everybody_may_subscribe_as_fedbus_does(name: str) -> None:
    """By filters with wildcards, too: the aggregator's, a device's, the monitor's."""
    found, topics = case(name), Topics(DEFAULT_PREFIX, "t")
    filters: dict[str, Iterable[str]] = {
        AGGREGATOR: (*topics.aggregator_filters(), *topics.own_model_filters()),
        MONITOR: topics.monitor_filters(),
        "a": (
            *topics.device_filters("a"),
            *topics.member_filters("a", "c"),
            topics.model_filter(7),
            topics.difference_filter(7),
        ),
    }
    asked = [(account, each) for account, own in filters.items() for each in own]
    assert [
        (account, each) for account, each in asked if not found.may(account, "read", each)
    ] == []


@pytest.mark.parametrize("name", MODELS)
def test_nobody_reads_more_by_asking_for_more(name: str) -> None:
    found, rights = case(name), Rights(DEFAULT_PREFIX)
    leaks = [
        (account, nosy)
        for account in ACCOUNTS
        for nosy in NOSY
        if found.may(account, "read", nosy) and not rights.may(account, "read", nosy)
    ]
    assert leaks == []


def test_the_bridge_carries_what_devices_may_and_the_middle_grants_the_same() -> None:
    here = bridge.render_bridge(WANTED)
    carried = re.findall(r"^topic (\S+) (out|in|both) 1$", here, re.MULTILINE)
    there = bridge.render_gateway_rules(WANTED)
    granted = re.findall(r"^topic (read|write|readwrite) (\S+)$", there, re.MULTILINE)
    denied = re.findall(r"^topic deny (\S+)$", there, re.MULTILINE)
    assert denied
    assert all(WANTED.gateway in topic for topic in denied)
    words = {"out": "write", "in": "read", "both": "readwrite"}
    assert [(words[way], topic) for topic, way in carried] == granted
    ways = {
        (access, topic)
        for topic, way in carried
        for access in (("write", "read") if way == "both" else (words[way],))
    }
    assert ways == {
        (grant.access, grant.filter.format(device=device))
        for device in DEVICES
        for grant in grants(role_of(device), DEFAULT_PREFIX)
    }


# --- what is particular ---------------------------------------------------------------------------


def test_rules_for_aws_are_for_one_task_and_short_enough() -> None:
    with pytest.raises(ConfigError, match="--task"):
        aws.render(WANTED)
    with pytest.raises(ConfigError, match="shorten"):
        aws.render(Wanted(task="t" * 64, prefix="a-long-prefix/of-three/levels"))
    for text in aws.render(Wanted(task="a-task-of-32-characters-and-more")).values():
        filled = text.replace("REGION", "ap-southeast-2").replace("ACCOUNT", "123456789012")
        assert len("".join(filled.split())) <= aws.MAX_CHARS


def test_rules_for_aws_with_every_task_would_leak_to_whoever_is_called_as_a_level() -> None:
    """Why they are for one task; and the models can find a leak."""
    wide = {name: text.replace("/1/t/", "/1/*/") for name, text in aws.render(ONE_TASK).items()}
    assert aws_model(wide)("a", "read", "fedbus/1/t/dev/roster/in")
    assert not aws_model(aws.render(ONE_TASK))("a", "read", "fedbus/1/t/dev/roster/in")


def test_a_password_is_hashed_as_the_extension_does() -> None:
    """The example of the extension's own manual."""
    salt = b"XSPQPtRLc3N1kHRGPP4hn92JW7emp8n9"
    assert hivemq.password_entry("pass1", salt) == (
        "WFNQUVB0UkxjM04xa0hSR1BQNGhuOTJKVzdlbXA4bjk=:100:"
        "FY12nwpUEbBK9EKQ/Aw/rQKSoA7jXsC0HKELwU2mLCVU39bJVK0zf4NemuFeDOHPO4BW1nOjxi6NporkC6rUog=="
    )


def test_the_configuration_of_hivemq_is_well_formed() -> None:
    files = hivemq.render(WANTED, dict.fromkeys(ACCOUNTS, "<&>"), b"salt")
    assert [ET.fromstring(text).tag for text in files.values()] == [  # noqa: S314 - we made it
        "hivemq",
        "extension-configuration",
        "file-rbac",
    ]


def test_an_account_of_rabbitmq_without_topics_may_nothing() -> None:
    """A missing or empty expression would allow everything."""
    assert re.search(rabbitmq.pattern([]), "fedbus.1.t.plan") is None


@pytest.mark.parametrize("name", choice.RECIPES)
def test_the_command_writes_private_files_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "new"
    command = ["broker", "config", "--for", name, "--out", str(out), "--device", "a"]
    command += ["--task", "t"]
    assert main(command) == 0
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    said = capsys.readouterr().out
    assert [path for path in written if f"wrote {path}" not in said] == []
    assert main(command) == 2


def test_a_gateway_gets_its_certificate_where_the_authority_is(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "test")
    made = ["--out", str(tmp_path / "new"), "--device", "a", "--authority", str(tmp_path / "ca")]
    assert main(["broker", "config", "--for", "bridge", "--gateway", "plant-1", *made]) == 0
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert files.keys() > {"ca.crt", "plant-1.crt", "plant-1.key"}
    assert files["plant-1.key"] == 0o600
    assert main(["broker", "config", "--for", "nats", *made]) == 2


def test_a_bridge_without_devices_is_refused() -> None:
    with pytest.raises(ConfigError, match="--device"):
        choice.RECIPES["bridge"].files(Wanted())
