"""A cohort that has lost too many devices says so, and what ends it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aggregator.monitor.status import encode, rounds_report
from aggregator.records import Standing, StandingRecord
from fedbus.status import status_lines
from fedbus.view import TaskView
from tests.aggregator.conftest import MakeSecure
from tests.support.secure_desk import SecureDesk


def kept_out(desk: SecureDesk, devices: Sequence[str], standing: Standing) -> dict[str, Any]:
    """What ``mon/rounds`` says when these devices have this standing."""
    desk.coordinator.decreed([StandingRecord(name, standing) for name in devices])
    found: dict[str, Any] = json.loads(encode(rounds_report(desk.coordinator, desk.desk.now)))
    return found


def said(desk: SecureDesk, report: dict[str, Any], folder: Path | None = None) -> str:
    view = TaskView(desk.coordinator.topics)
    view.see(desk.coordinator.topics.monitor("rounds"), json.dumps(report).encode())
    return "\n".join(status_lines(view, folder))


def test_a_cohort_with_too_few_left_to_answer_says_what_to_run(make_secure: MakeSecure) -> None:
    desk = make_secure()
    members = [member.device for member in desk.cohort.roster.members]
    needed = desk.cohort.roster.parameters.num_answers
    bearable, gone = members[needed:], members[needed - 1 :]
    assert "stalls" not in kept_out(desk, bearable, Standing.REVOKED)
    report = kept_out(desk, gone, Standing.REVOKED)
    told = f"{needed - 1} of its devices may answer, {needed} must"
    assert report["waiting_for"] == f"the next roster of cohort all: {told}"
    shown = said(desk, report)
    assert f"cohort all STALLS until its next roster: {told}; kept out: {', '.join(gone)}" in shown
    assert "fedbus enrol collect -c fed.toml --out next-keys.json" in shown
    assert shown.count(" --remove ") == len(gone)
    assert "fedbus enrol DEVICE..." not in shown
    elsewhere = said(desk, report, Path("my farm"))
    assert "fedbus enrol next 'my farm/enrolment' -c 'my farm/fed.toml' --keys" in elsewhere
    assert "fedbus devices release DEVICE -c 'my farm/fed.toml'" in elsewhere
    assert "fedbus aggregator run -c 'my farm/fed.toml'" in elsewhere


def test_who_is_quarantined_may_answer_but_not_contribute(make_secure: MakeSecure) -> None:
    desk = make_secure()
    members = [member.device for member in desk.cohort.roster.members]
    report = kept_out(desk, members[2:], Standing.QUARANTINED)
    assert report["waiting_for"].endswith("2 of its devices may contribute, 3 must")
    shown = said(desk, report)
    assert "fedbus enrol DEVICE...   (1 more" in shown
    assert "(in rounds: task.rounds.size) to 3 or less in fed.toml" in shown


def test_no_command_is_made_of_what_a_broker_made_up(make_secure: MakeSecure) -> None:
    desk = make_secure()
    members = [member.device for member in desk.cohort.roster.members]
    report = kept_out(desk, members[2:], Standing.REVOKED)
    report["stalls"]["all"]["kept_out"] = ["x; reboot"]
    assert "STALLS" in said(desk, report)
    assert "--remove" not in said(desk, report)


def test_who_is_cut_off_at_the_broker_answers_no_more(make_secure: MakeSecure) -> None:
    desk = make_secure()
    members = [member.device for member in desk.cohort.roster.members]
    gone = members[desk.cohort.roster.parameters.num_answers - 1 :]
    desk.coordinator.decreed(
        [StandingRecord(name, Standing.QUARANTINED, is_cut=True) for name in gone]
    )
    report = rounds_report(desk.coordinator, desk.desk.now)
    assert "of its devices may answer" in report["waiting_for"]
