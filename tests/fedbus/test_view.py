"""A task's picture is made from its monitoring topics alone, whatever they say."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedbus.screen import picture
from fedbus.status import status_lines
from fedbus.view import MAX_REPORT_BYTES, TaskView
from fedbus.wording import human_bytes
from protocol.refusals import MEANING
from protocol.topics import Topics

TOPICS = Topics("fedbus/1", "digits")


def view_of(**reports: object) -> TaskView:
    view = TaskView(TOPICS)
    for what, report in reports.items():
        view.see(TOPICS.monitor(what), json.dumps(report).encode())
    return view


def drawn(view: TaskView, **options: object) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(picture(view, title="t", max_rows=10, **options))  # type: ignore[arg-type] # forwarded
    return console.export_text()


def busy() -> TaskView:
    view = view_of(
        aggregator={"state": "online", "mqtt": "5"},
        rounds={
            "mode": "buffered",
            "version": 7,
            "updates_in_buffer": 2,
            "waiting_for": "2 more updates (2 of 4)",
            "devices_training": 1,
        },
        metrics={
            "version": 7,
            "evaluated_version": 7,
            "accuracy": 0.8125,
            "codec": "topk-0.1/int8",
            "updates_accepted": 30,
            "refused": {"too_stale": 2, "malformed": 5},
        },
        devices={
            "registered": 3,
            "online": 2,
            "offline": 1,
            "training": {"device-1": "version 7, 12 s left"},
            "late": ["device-3"],
            "late_count": 1,
            "offline_names": ["device-3"],
        },
        alerts={"alerts": ["device-3: malformed: what"]},
    )
    for name, state in (("device-1", b"online"), ("device-3", b"offline")):
        view.see(TOPICS.state(name), state)
    told = {"bytes_up": 81_234, "bytes_down": 1_234_567, "receipts": 11, "state": "idle"}
    view.see(TOPICS.telemetry("device-1"), json.dumps(told).encode())
    return view


def test_status_says_what_is_waited_for_whose_lease_ran_out_and_what_was_refused() -> None:
    said = "\n".join(status_lines(busy()))
    assert "the aggregator is online (MQTT 5)" in said
    assert "waiting for 2 more updates (2 of 4)" in said
    assert "at work: device-1" in said
    assert "lease ran out: device-3" in said
    assert f"5  malformed: {MEANING['malformed']}" in said
    assert f"2  too_stale: {MEANING['too_stale']}" in said
    assert "0.812" in said


def test_nobody_asks_for_work_while_a_sum_is_awaited() -> None:
    for state, is_odd in (("recovering", False), ("open", True)):
        view = TaskView(TOPICS)
        rounds = {"buffers": [{"state": state, "missing_from": ["ada"], "answers_missing": 1}]}
        view.see(TOPICS.monitor("rounds"), json.dumps(rounds).encode())
        assert ("no device asks for work" in "\n".join(status_lines(view))) == is_odd


def test_status_of_an_aggregator_that_is_gone_says_so() -> None:
    view = view_of(aggregator={"state": "offline"})
    assert view.known
    assert not view.online
    assert "offline" in status_lines(view)[0]


def test_the_picture_has_accuracy_refusals_and_every_devices_bytes() -> None:
    text = drawn(busy(), target=0.9, sizes={"device-1": 120})
    for part in ("version 7", "0.812", "target 0.9", "30 accepted", "7 refused", "malformed 5"):
        assert part in text
    row = next(line for line in text.splitlines() if "device-1" in line)
    assert row.split()[1:8] == ["device-1", "online", "training", "120", "11", "81.2", "kB"]
    assert "1.23 MB" in row
    assert "offline" in next(line for line in text.splitlines() if "device-3" in line)


def test_a_device_that_may_not_train_says_why() -> None:
    view = busy()
    told = json.dumps({"declined": "not_charging", "state": "idle"}).encode()
    view.see(TOPICS.state("device-4"), b"online")
    view.see(TOPICS.telemetry("device-4"), told)
    row = next(line for line in drawn(view).splitlines() if "device-4" in line)
    assert "does not train: not_charging" in row


def test_a_device_whose_training_fails_says_why() -> None:
    view = busy()
    told = json.dumps({"failed": "memory budget of 5 bytes", "state": "idle"}).encode()
    view.see(TOPICS.state("device-4"), b"online")
    view.see(TOPICS.telemetry("device-4"), told)
    row = next(line for line in drawn(view).splitlines() if "device-4" in line)
    assert "training fails: memory budget" in row


def test_more_devices_than_fit_are_counted() -> None:
    view = TaskView(TOPICS)
    for number in range(30):
        view.see(TOPICS.state(f"d-{number:02}"), b"online")
    assert "and 20 more" in drawn(view)


def test_a_cleared_state_forgets_the_device() -> None:
    view = busy()
    view.see(TOPICS.state("device-3"), b"")
    assert list(view.members) == ["device-1"]


def test_nothing_that_is_said_steers_the_terminal() -> None:
    evil = "\x1b[2J\x07[bold]x\r\n"
    view = view_of(
        aggregator={"state": evil},
        rounds={"waiting_for": evil, "mode": evil, "epochs": {evil: {}, "\ud800": {}}},
        alerts={"alerts": [evil]},
        metrics={"refused": {evil: 1}},
        devices={"late": [evil], "training": {evil: "x"}},
    )
    shown = "\n".join(status_lines(view)) + drawn(view)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.encode(), "no terminal takes half a character"
    assert "[bold]x" in shown  # neither is it markup


def test_an_oversize_report_is_not_even_parsed() -> None:
    view = TaskView(TOPICS)
    payload = b'{"state": "' + b"x" * MAX_REPORT_BYTES + b'"}'
    view.see(TOPICS.monitor("aggregator"), payload)
    assert not view.known
    assert view.num_unreadable == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
READ = {
    "aggregator": ("state", "mqtt"),
    "rounds": ("version", "waiting_for", "devices_training", "mode"),
    "metrics": ("accuracy", "refused", "evaluated_version"),
    "devices": ("training", "late", "late_count", "offline_names"),
    "alerts": ("alerts",),
    "tele": ("bytes_up", "receipts", "turned_away"),
}
keys = st.sampled_from([key for some in READ.values() for key in some])
payloads = st.binary(max_size=40) | st.dictionaries(keys, json_values).map(
    lambda report: json.dumps(report).encode()
)
topics = st.sampled_from(
    [TOPICS.monitor(what) for what in ("aggregator", "rounds", "metrics", "devices", "alerts")]
    + [TOPICS.state("a"), TOPICS.info("a"), TOPICS.telemetry("a"), TOPICS.plan(), "elsewhere"]
)


@given(st.lists(st.tuples(topics, payloads), max_size=12))
def test_anything_can_be_said_and_is_still_shown(said: list[tuple[str, bytes]]) -> None:
    view = TaskView(TOPICS)
    for topic, payload in said:
        view.see(topic, payload)
    assert status_lines(view)
    assert drawn(view, target=0.5)


def test_sizes_read_well() -> None:
    shown = [human_bytes(size) for size in (0, 999, 1_000, 12_345, 999_999, 5_000_000_000)]
    assert shown == ["0 B", "999 B", "1 kB", "12.3 kB", "1 MB", "5 GB"]
