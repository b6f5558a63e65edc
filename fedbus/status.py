"""What `fedbus status` says about a task: sentences made from a `TaskView`. Pure."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aggregator.wording import many
from fedbus.secure_status import secure_lines
from fedbus.view import Report, TaskView, count, names, number, printable, reports, table, text
from fedbus.wording import accuracy_text, refusals
from protocol.refusals import MEANING

_MAX_NAMES: Final = 20
_MAX_ALERTS: Final = 5


def status_lines(view: TaskView, folder: Path | None = None) -> list[str]:
    """Return what is being waited for and why, whose leases ran out, what was refused.

    ``folder`` is the operator's, for commands that name its files; None: where it is, is not known.
    """
    return [
        *_headline(view, folder),
        *_waiting(view),
        *secure_lines(view, folder or Path()),
        *_learning(view),
        *_privacy(view),
        *_devices(view),
        *_refused(view),
        *_alerts(view),
    ]


def _headline(view: TaskView, folder: Path | None) -> Iterator[str]:
    aggregator, rounds = view.report("aggregator"), view.report("rounds")
    mqtt = text(aggregator, "mqtt")
    link = f" (MQTT {mqtt})" if mqtt and view.online else ""
    yield f"task {view.task}: the aggregator is {text(aggregator, 'state') or 'silent'}{link}"
    if not view.online:
        settings = "" if folder is None else f" -c {shlex.quote(str(folder / 'fed.toml'))}"
        yield f"  start it again with `fedbus aggregator run{settings}`; below is what it said last"
    yield f"mode {text(rounds, 'mode') or 'unknown'}, model version {count(rounds, 'version')}"


def _waiting(view: TaskView) -> Iterator[str]:
    rounds = view.report("rounds")
    yield f"waiting for {text(rounds, 'waiting_for') or 'nothing that is known'}"
    num_training, num_waiting = count(rounds, "devices_training"), count(rounds, "devices_waiting")
    incomplete = count(rounds, "updates_incomplete")
    yield (
        f"  because the buffer has {many(count(rounds, 'updates_in_buffer'), 'update')}; "
        f"{many(num_training, 'device')} at work, {num_waiting} waiting for a lease, "
        f"{many(incomplete, 'update')} incomplete"
    )
    training = names(view.report("devices"), "training")
    if training:
        yield f"  at work: {_listed(training, num_training)}"
    yield from _leases(rounds)
    states = [text(each, "state") for each in reports(rounds, "buffers")]
    is_summing = "recovering" in states or "round" in rounds
    if not (num_training or num_waiting or is_summing):
        yield _idle_hint(count(rounds, "updates_in_buffer"))


def _leases(rounds: Report) -> Iterator[str]:
    """What keeps devices waiting, what leases may still cost, and how sites stand."""
    leases = table(rounds, "leases")
    if held_back := text(leases, "held_back_by"):
        yield f"  no lease for those who wait: {held_back}"
    if not leases:
        return
    yield (
        f"leases: chosen by {text(leases, 'rule')}; updates of {count(leases, 'outstanding_bytes')}"
        f" of at most {count(leases, 'credit_bytes')} bytes on their way;"
        f" {count(leases, 'in_time_percent')} % came in time"
    )
    if floor := text(leases, "floor"):
        yield f"  {floor}"
    for name, site in table(leases, "sites").items():
        if isinstance(site, dict):
            yield f"  site {printable(name)}: {_site(site)}"


def _site(site: Report) -> str:
    most, rate = count(site, "concurrency"), count(site, "bytes_per_hour")
    at_work = f"{count(site, 'training')}{f' of {most}' if most else ''} at work"
    return (
        f"{at_work}, {count(site, 'bytes_left')} bytes left of {rate} an hour" if rate else at_work
    )


def _idle_hint(num_buffered: int) -> str:
    if num_buffered:
        return (
            "  nobody else asks for work; a device whose update waits in the buffer "
            "gets more after the next version"
        )
    return "  no device asks for work: are they online, and do they have data?"


def _learning(view: TaskView) -> Iterator[str]:
    metrics = view.report("metrics")
    if "evaluated_version" in metrics:
        at = f"version {count(metrics, 'evaluated_version')}"
        problem = text(metrics, "error")
        known = f"not to be had: {problem}" if problem else accuracy_text(view.accuracy)
        yield f"accuracy on held-out data {known} ({at})"
    accepted, duplicates = count(metrics, "updates_accepted"), count(metrics, "duplicates")
    yield (
        f"updates: {accepted} accepted, {duplicates} sent again, "
        f"{sum(refusals(view.report('metrics')).values())} refused"
    )


def _privacy(view: TaskView) -> Iterator[str]:
    """What the model may tell of a device's data, and how much more of it there may be."""
    told = table(view.report("metrics"), "privacy")
    if not told:
        return
    if given_up := text(told, "given_up"):
        yield f"privacy: NONE any more; {given_up}"
        return
    yield (
        f"privacy ({text(told, 'mechanism')}): epsilon {number(told, 'epsilon') or 0:.3f} of"
        f" {number(told, 'epsilon_budget') or 0:g} at delta {number(told, 'delta') or 0:g}, noise"
        f" {number(told, 'noise_multiplier') or 0:g} times the clip of"
        f" {number(told, 'clip') or 0:.3g}"
    )
    if since := count(told, "since_version"):
        yield f"  of what versions up to {since} learned, it says nothing: they had no noise"
    if num_spent := count(told, "devices_spent"):
        yield f"  {many(num_spent, 'device')} spent all of it and get no more leases"


def _devices(view: TaskView) -> Iterator[str]:
    devices = view.report("devices")
    yield (
        f"devices: {count(devices, 'registered')} registered, {count(devices, 'online')} online, "
        f"{count(devices, 'sleeping')} sleeping, {count(devices, 'offline')} offline"
    )
    offline, late = names(devices, "offline_names"), names(devices, "late")
    if offline:
        yield f"  offline: {_listed(offline, count(devices, 'offline'))}"
    if late:
        yield f"  lease ran out: {_listed(late, count(devices, 'late_count'))}"


def _refused(view: TaskView) -> Iterator[str]:
    refused = refusals(view.report("metrics"))
    if refused:
        yield "refused, by reason"
    for reason, times in refused.items():
        yield f"  {times:>6}  {reason}: {MEANING.get(reason, 'a reason unknown to this version')}"


def _alerts(view: TaskView) -> Iterator[str]:
    alerts = names(view.report("alerts"), "alerts")
    if alerts:
        yield "last alerts"
    for alert in alerts[-_MAX_ALERTS:]:
        yield f"  {alert}"


def _listed(some: list[str], total: int) -> str:
    shown = some[:_MAX_NAMES]
    more = max(total, len(some)) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
