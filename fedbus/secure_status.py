"""What `fedbus status` says about masked buffers. Pure: a `TaskView` in, sentences out."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from aggregator.wording import many
from fedbus.roster_steps import next_roster
from fedbus.view import Report, TaskView, count, names, printable, reports, table, text
from protocol.errors import ConfigError
from protocol.topics import check_id

_MAX_NAMES = 20
#: What devices have done in a round of `pairwise`, in order.
_WORDS = ("advertised", "dealt", "uploaded", "signed", "answered")


def secure_lines(view: TaskView, folder: Path = Path()) -> Iterator[str]:
    """Return, for each buffer: updates, holders, missing answers and from whom; when epochs end.

    ``folder`` is the operator's, whose files stand in commands.
    """
    rounds = view.report("rounds")
    epochs = table(rounds, "epochs")
    if "epochs" not in rounds:
        return
    yield "secure: updates are masked, only sums of buffers are learned"
    if not epochs:
        yield "  no epoch is open: lay a signed roster into secure.rosters (`fedbus enrol next`)"
    for cohort in sorted(epochs):
        epoch = table(epochs, cohort)
        yield (
            f"  cohort {printable(cohort)}: epoch {count(epoch, 'epoch')} of"
            f" {count(epoch, 'devices')} devices ends in {human_time(count(epoch, 'ends_in_s'))}"
        )
    for cohort in sorted(stalls := table(rounds, "stalls")):
        yield from _stall(cohort, table(stalls, cohort), folder)
    for buffer in reports(rounds, "buffers"):
        yield _buffer(buffer)
    if "round" in rounds:
        yield _round(table(rounds, "round"))
    waiting = count(rounds, "updates_without_shares")
    if waiting:
        yield f"  waiting until enough holders have shares of the masks: {many(waiting, 'update')}"


def _stall(cohort: str, stall: Report, folder: Path) -> Iterator[str]:
    """Why a cohort can make no sum any more, and what the operator runs."""
    settings = str(folder / "fed.toml")
    kept_out = names(stall, "kept_out")
    yield (
        f"  cohort {printable(cohort)} STALLS until its next roster: {count(stall, 'left')} of its"
        f" devices may {text(stall, 'what')}, {count(stall, 'needed')} must; kept out:"
        f" {', '.join(kept_out[:_MAX_NAMES])}"
    )
    if not all(map(_is_id, [cohort, *kept_out])):
        return  # made up by a broker, and no words for a command
    yield (
        "    a device that is only quarantined: fedbus devices release DEVICE -c"
        f" {shlex.quote(settings)}"
    )
    yield "    the next roster, where the enrolment is:"
    for step in next_roster(
        settings,
        str(folder / "enrolment"),
        cohort=cohort,
        remove=kept_out,
        to_enrol=count(stall, "to_enrol"),
        goal_at_most=count(stall, "goal_at_most"),
    ):
        yield f"      {step}"


def _is_id(name: str) -> bool:
    try:
        check_id(name, "id")
    except ConfigError:
        return False
    return True


def _buffer(buffer: Report) -> str:
    head = (
        f"  buffer of cohort {text(buffer, 'cohort')}, epoch {count(buffer, 'epoch')}: "
        f"{many(count(buffer, 'updates'), 'update')}, all shares with "
        f"{many(count(buffer, 'holders'), 'holder')}, "
        f"{count(buffer, 'answers_needed')} must answer"
    )
    if text(buffer, "state") != "recovering":
        return f"{head}; open"
    missing = names(buffer, "missing_from")[:_MAX_NAMES]
    wanted = count(buffer, "answers_missing")
    if not wanted:
        return f"{head}; {count(buffer, 'answers')} did: the sum is being checked"
    return (
        f"{head}; missing: {many(wanted, 'answer')}, from any of {', '.join(missing) or 'nobody'}"
    )


def _round(under_way: Report) -> str:
    said = ", ".join(f"{count(under_way, what)} {what}" for what in _WORDS)
    missing = names(under_way, "missing_from")[:_MAX_NAMES]
    return (
        f"  round of cohort {text(under_way, 'cohort')}, epoch {count(under_way, 'epoch')}: {said};"
        f" {count(under_way, 'needed')} are needed; waits for {text(under_way, 'waits_for')} of"
        f" {', '.join(missing) or 'nobody'}"
    )


def human_time(seconds: int) -> str:
    """Return a duration as a person says it: 45 s, 12 min, 5 h."""
    minute, hour, day = 60, 3600, 86_400
    for unit, length in (("days", day), ("h", hour), ("min", minute)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
