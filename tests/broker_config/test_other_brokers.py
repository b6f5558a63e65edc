"""Rules for brokers that cannot be run here: judged by a model of each one's rule language.

Each model (`tests.support.rule_models`) says what an account may by the files alone. Compared with
`broker_config.accounts.Rights` on every topic there is and for filters of somebody nosy. A device
is called ``roster``, as a level is: rules whose wildcards match slashes fall for it.
"""

import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR, MONITOR, Rights, role_of
from broker_config.authority import Authority
from broker_config.checks.rights import probe_topics
from broker_config.others import aws, bridge, choice, dynsec, emqx, hivemq, nats, rabbitmq
from broker_config.others.wanted import Wanted
from fedbus.__main__ import main
from protocol.errors import ConfigError
from protocol.joining import OPERATOR
from protocol.topics import DEFAULT_PREFIX, Topics, grants
from tests.support.rule_models import (
    May,
    aws_model,
    dynsec_model,
    emqx_model,
    hivemq_model,
    nats_model,
    rabbitmq_model,
)
from tests.support.servers import require_program

DEVICES: Final = ("a", "roster")
NEWCOMER_A: Final = "join-a"
ACCOUNTS: Final = (AGGREGATOR, MONITOR, *DEVICES, NEWCOMER_A)
WANTED: Final = Wanted(devices=(*DEVICES, NEWCOMER_A))
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


@dataclass(frozen=True)
class Case:
    """The files of one broker as its model reads them."""

    may: May
    accounts: tuple[str, ...] = ACCOUNTS


def case(name: str) -> Case:
    passwords = dict.fromkeys(ACCOUNTS, "secret")
    match name:
        case "emqx":
            return Case(emqx_model(emqx.render(WANTED)))
        case "hivemq":
            return Case(hivemq_model(hivemq.render(WANTED, passwords, b"salt")))
        case "aws":
            return Case(aws_model(aws.render(ONE_TASK)), (AGGREGATOR, MONITOR, *DEVICES))
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
        for account in found.accounts
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
            *(topics.into("a"), topics.shares_to("a")),
            *(*topics.news_filters("a"), *topics.member_news_filters("c")),
            topics.model_filter(7),
            topics.difference_filter(7),
        ),
    }
    if NEWCOMER_A in found.accounts:
        filters[NEWCOMER_A] = (topics.share(NEWCOMER_A, OPERATOR),)
    asked = [(account, each) for account, own in filters.items() for each in own]
    assert [
        (account, each) for account, each in asked if not found.may(account, "read", each)
    ] == []


@pytest.mark.parametrize("name", MODELS)
def test_nobody_reads_more_by_asking_for_more(name: str) -> None:
    found, rights = case(name), Rights(DEFAULT_PREFIX)
    leaks = [
        (account, nosy)
        for account in found.accounts
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
        for device in WANTED.devices
        for grant in grants(role_of(device), DEFAULT_PREFIX)
    }


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


def test_the_rules_of_emqx_are_what_erlang_reads(tmp_path: Path) -> None:
    """EMQX reads its rule file with Erlang's own ``file:consult``."""
    erlang = require_program("erl")
    (tmp_path / "fedbus.acl").write_text(emqx.render(WANTED)["fedbus.acl"])
    said = 'case file:consult("fedbus.acl") of {ok, T} -> io:format("~p", [length(T)]); E -> '
    said += 'io:format("~p", [E]) end, halt().'
    told = subprocess.run(
        [erlang, "-noshell", "-eval", said],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert told.stdout == b"11"  # aggregator 2, monitor 1, tokens 2, devices 2, who is denied 4


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
