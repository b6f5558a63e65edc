"""The files as text: rules, passwords, configuration."""

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_config.accounts import AGGREGATOR, MONITOR, Rights, account_names, covers
from broker_config.mosquitto import (
    WATCHED_TOPICS,
    Ports,
    allow,
    denied,
    deny,
    is_password,
    listening,
    password_entry,
    prefix_of,
    render_acl,
    render_config,
    render_listeners,
    render_plain,
)
from protocol.errors import ConfigError
from protocol.topics import RULES, Kind, Role

SHIPPED = resources.files("broker_config").joinpath("mosquitto.conf").read_text("utf-8")
TEMPLATE = render_plain(SHIPPED)
ACL = render_acl("fedbus/1").splitlines()
ANY = dict.fromkeys(("device", "to", "part", "cohort", "shelf", "index", "what"), "+")
OWN = {**ANY, "device": "%u"}


def block(user: str) -> list[str]:
    start = ACL.index(f"user {user}") + 1
    return ACL[start : ACL.index("", start)]


def wanted(role: Role, word: str) -> set[str]:
    """The rights of a role, read off RULES by hand."""
    lines = set()
    for kind, rule in RULES.items():
        own = OWN if role is Role.DEVICE else ANY
        if role in rule.writers:
            lines.add(f"{word} write fedbus/1/+/{kind.value.format(**own)}")
        if kind is Kind.SHARE and role is Role.DEVICE:
            own = {**ANY, "to": "%u"}
        if role in rule.readers:
            lines.add(f"{word} read fedbus/1/+/{kind.value.format(**own)}")
    return lines


def test_the_patterns_are_the_rules_of_a_device_and_nothing_else() -> None:
    patterns = [line for line in ACL if line.startswith("pattern")]
    assert set(patterns) == wanted(Role.DEVICE, "pattern")


@pytest.mark.parametrize(("user", "role"), [(AGGREGATOR, Role.AGGREGATOR), (MONITOR, Role.MONITOR)])
def test_a_service_has_its_rules_and_the_brokers_own_figures(user: str, role: Role) -> None:
    granted = {line for line in block(user) if not line.startswith("topic deny")}
    assert granted == wanted(role, "topic") | {f"topic read {topic}" for topic in WATCHED_TOPICS}


@pytest.mark.parametrize("user", [AGGREGATOR, MONITOR])
def test_a_service_is_denied_what_the_patterns_would_give_a_device_of_its_name(user: str) -> None:
    denied = {line.removeprefix("topic deny ") for line in block(user) if "deny" in line}
    given_by_patterns = {
        line.split(" ", 2)[2].replace("%u", user) for line in ACL if line.startswith("pattern")
    }
    assert denied == {topic for topic in given_by_patterns if user in topic}


def test_a_device_writes_exactly_these_topics() -> None:
    """Spelled out, so that a slip in RULES shows here too."""
    written = {line.removeprefix("pattern write ") for line in ACL if "pattern write" in line}
    assert written == {
        "fedbus/1/+/dev/%u/state",
        "fedbus/1/+/dev/%u/info",
        "fedbus/1/+/dev/%u/tele",
        "fedbus/1/+/dev/%u/out",
        "fedbus/1/+/up/+/%u",
        "fedbus/1/+/share/+/%u",
    }


def test_the_rules_can_be_narrowed_to_one_task() -> None:
    topics = [line.split(" ")[-1] for line in render_acl("fedbus/1", "heat").splitlines() if line]
    fedbus = [topic for topic in topics if topic.startswith("fedbus/")]
    assert fedbus
    assert all(topic.startswith("fedbus/1/heat/") for topic in fedbus)


def test_a_password_entry_has_the_form_of_mosquitto_passwd() -> None:
    """Made by ``mosquitto_passwd -b`` 2.0.11 for device dev-1 and password correct-horse."""
    made = (
        "dev-1:$7$101$NiYZRU+kr8w5stSg$"
        "6vWVBozpn2+Oy6sR/eZOzLCuHkNDpZovK0kANBMXq55X"
        "5OIFH/qjXumV0diPIp+ZuVjLuT0tuTSEvKftd3CgSw=="
    )
    assert is_password(made, "correct-horse")
    assert not is_password(made, "correct-horsf")


@given(st.text(max_size=70), st.binary(min_size=12, max_size=12))
def test_a_password_fits_the_entry_made_from_it_and_no_other(text: str, salt: bytes) -> None:
    entry = password_entry("dev-1", text, salt)
    assert is_password(entry, text)
    assert not is_password(entry, text + "x")


@given(st.text() | st.from_regex(r"a:\$7\$[0-9x-]{0,3}\$[A-Za-z=!]{0,5}\$.{0,5}", fullmatch=True))
def test_a_broken_entry_fits_no_password(entry: str) -> None:
    assert not is_password(entry, "")


@pytest.mark.parametrize("name", ["", "a:b", "a\nb"])
def test_a_user_name_cannot_break_the_password_file(name: str) -> None:
    with pytest.raises(ConfigError, match="user name"):
        password_entry(name, "secret", bytes(12))


def test_rendering_replaces_the_named_directives_and_keeps_the_rest() -> None:
    text = render_config(TEMPLATE, {"listener": "2883 127.0.0.1", "acl_file": "/here/acl"})
    changed = [
        new for old, new in zip(TEMPLATE.splitlines(), text.splitlines(), strict=True) if old != new
    ]
    assert changed == ["listener 2883 127.0.0.1", "acl_file /here/acl"]


@pytest.mark.parametrize("values", [{"no_such": "1"}, {"log_type": "all"}, {"user": "a\nb"}])
def test_rendering_refuses_what_it_cannot_place(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        render_config(TEMPLATE, values)


@pytest.mark.parametrize("name", [AGGREGATOR, MONITOR, "Sensor", "a/b", ""])
def test_a_device_cannot_take_a_name_that_is_a_service_or_cannot_be_spelled(name: str) -> None:
    with pytest.raises(ConfigError):
        account_names(["ok", name])


@pytest.mark.parametrize(
    ("granted", "wanted_topic", "is_within"),
    [
        ("p/+/mon/+", "p/t/mon/rounds", True),
        ("p/+/mon/+", "p/+/mon/#", True),
        ("p/+/mon/+", "p/t/#", False),
        ("p/+/dev/a/in", "p/t/dev/+/in", False),
        ("p/+/dev/a/in", "p/t/dev/b/in", False),
        ("p/+/dev/a/in", "p/t/dev/a/#", False),
        ("p/+/dev/a/in", "#", False),
        ("p/+/plan", "p/t/plan/more", False),
        ("p/+/plan", "p/t", False),
        ("p/+/plan", "p/t/plan/#", False),
    ],
)
def test_a_filter_is_granted_only_if_all_it_matches_is(
    granted: str, wanted_topic: str, *, is_within: bool
) -> None:
    assert covers(granted, wanted_topic) is is_within


def test_the_rights_of_a_device_end_at_its_own_id() -> None:
    rights = Rights("fedbus/1")
    assert rights.may("a", "write", "fedbus/1/t/up/3/a")
    assert not rights.may("a", "write", "fedbus/1/t/up/3/b")
    assert rights.may("a", "read", "fedbus/1/t/share/a/b")
    assert not rights.may("a", "read", "fedbus/1/t/share/b/a")
    assert not rights.may(MONITOR, "write", "fedbus/1/t/dev/monitor/state")


def test_the_readme_says_of_every_directive_why_it_is_there() -> None:
    readme = resources.files("broker_config").joinpath("README.md").read_text("utf-8")
    directives = {line.split()[0] for line in SHIPPED.splitlines() if line and line[0] != "#"}
    reasons = readme[readme.index("## Why each line") : readme.index("### What survives")]
    told = reasons.replace("`log_*`", "log_dest log_type")
    assert {directive for directive in directives if directive not in told} == set()


def test_the_plain_broker_listens_on_loopback_alone_and_differs_in_nothing_else() -> None:
    lines = [line for line in TEMPLATE.splitlines() if line.startswith("listener")]
    assert lines == ["listener 1883 127.0.0.1"]
    rest = SHIPPED[SHIPPED.index("# Whom root becomes") :]
    assert TEMPLATE.endswith(rest)


def test_every_listener_of_the_shipped_broker_has_tls_and_the_first_wants_certificates() -> None:
    blocks = [block for block in SHIPPED.split("\n\n") if "\nlistener " in block]
    assert len(blocks) == 3
    assert all("certfile" in block and "tls_version tlsv1.2" in block for block in blocks)
    assert "require_certificate true\nuse_identity_as_username true" in blocks[0]
    assert "crlfile" in blocks[0]


def test_listeners_get_their_ports_and_one_without_is_left_out() -> None:
    text = render_listeners(SHIPPED, Ports(tls=1, password=2, websockets=0), "127.0.0.1")
    lines = [line for line in text.splitlines() if line.startswith(("listener", "protocol"))]
    assert lines == ["listener 1 127.0.0.1", "listener 2 127.0.0.1"]
    assert listening(text) == ("127.0.0.1", 1)
    assert listening(render_listeners(SHIPPED, Ports())) == ("", 8883)


def test_an_account_is_denied_everything_and_allowed_again_as_if_nothing_had_been() -> None:
    rules = render_acl()
    both = deny(deny(deny(rules, "a"), "b"), "a")
    assert denied(both) == {"a", "b"}
    assert both.count("topic deny #") == 2
    assert allow(allow(both, "a"), "b") == rules
    assert denied(rules) == set()


def test_the_prefix_is_read_back_from_the_rules() -> None:
    assert prefix_of(render_acl("a/b", "heat")) != "a/b"  # a rule for one task says nothing of all
    assert prefix_of(render_acl("a/b")) == "a/b"
    assert prefix_of("") == "fedbus/1"
