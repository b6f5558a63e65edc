"""The retained JSON on ``mon/``: what runs, what is waited for, what was refused and why.

Pure: a coordinator and the time in, one small JSON object a topic out. Lists of names are cut at
`MAX_NAMES`; the counts beside them are whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from aggregator.coordinator import Coordinator
from aggregator.leases import Lease
from aggregator.masked_buffer import MaskedBuffer
from aggregator.monitor.stalls import Stall, stall_of
from aggregator.pairwise import PairwiseBuffers
from aggregator.records import Standing
from aggregator.recovery import Recovery
from aggregator.secagg import SecureBuffers
from aggregator.secure_config import smallest_buffer

MAX_NAMES: Final = 100
#: How many names fit a packet of the smallest limit that the aggregator takes.
MAX_DENIED: Final = 500
#: A device with this score or more is shown.
SUSPECT: Final = 1.0

Report = Mapping[str, Any]


def encode(report: Report) -> bytes:
    """Return the JSON that is published: one line, keys in the order given."""
    return json.dumps(report, separators=(", ", ": ")).encode()


def aggregator_report(state: str, *, mqtt: str = "", why: str = "") -> Report:
    """Whether the aggregator is there; its last will says ``offline``."""
    report = {"state": state, "mqtt": mqtt, "why": why}
    return {key: value for key, value in report.items() if value}


def rounds_report(coordinator: Coordinator, now: float) -> Report:
    """What the next version waits for."""
    view = coordinator.view(now)
    open_s = 0.0 if view.opened_at is None else now - view.opened_at
    stalls = _stalls(coordinator)
    return {
        "mode": coordinator.config.mode,
        "version": coordinator.version,
        "updates_in_buffer": view.num_buffered,
        "open_for_s": round(open_s),
        "waiting_for": _whole_stall(coordinator, stalls) or coordinator.waiting_for(now),
        "devices_training": view.num_active,
        "devices_waiting": view.num_waiting,
        "updates_incomplete": len(coordinator.partials),
        "leases": coordinator.granting.report(coordinator.partials.num_bytes, now),
        **({} if coordinator.secure is None else secure_report(coordinator.secure, now)),
        **({"stalls": {name: asdict(each) for name, each in stalls.items()}} if stalls else {}),
    }


def _stalls(coordinator: Coordinator) -> Mapping[str, Stall]:
    """Why cohorts can make no sum until their next roster, by cohort."""
    if coordinator.secure is None:
        return {}
    standings = {
        # nothing is heard of who is cut off, whatever it may have to answer
        each.device: Standing.REVOKED if each.is_cut else each.standing
        for each in coordinator.conduct.standings
    }
    smallest = smallest_buffer(coordinator.config)
    found = {
        cohort.roster.cohort: stall_of(cohort, standings, smallest)
        for cohort in coordinator.secure.cohorts
    }
    return {name: stall for name, stall in found.items() if stall is not None}


def _whole_stall(coordinator: Coordinator, stalls: Mapping[str, Stall]) -> str:
    """What the task waits for if none of its cohorts can go on; empty: another can, or all do."""
    if coordinator.secure is None or len(stalls) < len(list(coordinator.secure.cohorts)):
        return ""
    return "; ".join(stall.waits_for(name) for name, stall in sorted(stalls.items()))


def secure_report(secure: SecureBuffers | PairwiseBuffers, now: float) -> Report:
    """What is masked and not yet a sum, and whose answers are missing; when epochs end."""
    return {
        **(_buffers(secure, now) if isinstance(secure, SecureBuffers) else _round(secure)),
        "epochs": {
            cohort.roster.cohort: {
                "epoch": cohort.roster.epoch,
                "devices": len(cohort.roster.members),
                "ends_in_s": max(0, round(cohort.ends_at - now)),
            }
            for cohort in secure.cohorts
        },
    }


def _buffers(secure: SecureBuffers, now: float) -> Report:
    return {
        "updates_without_shares": secure.num_waiting,
        "buffers": [
            *[_open_buffer(buffer, now) for buffer in secure.buffers],
            *[_closed_buffer(recovery) for recovery in secure.recoveries],
        ],
    }


def _round(secure: PairwiseBuffers) -> Report:
    """How far the round of `pairwise` is, and who is waited for."""
    under_way = secure.round
    if under_way is None:
        return {}
    missing = under_way.names(under_way.missing(secure.members))
    return {
        "round": {
            "cohort": under_way.cohort.roster.cohort,
            "epoch": under_way.cohort.roster.epoch,
            "waits_for": under_way.stage.value,
            "advertised": max(len(under_way.keys), len(under_way.dealers)),
            "dealt": len(under_way.dealers or under_way.sealed),
            "uploaded": len(under_way.ids),
            "signed": len(under_way.signatures),
            "answered": len(under_way.answers),
            "needed": secure.needed(under_way),
            "missing": len(missing),
            "missing_from": missing[:MAX_NAMES],
        }
    }


def _open_buffer(buffer: MaskedBuffer, now: float) -> Report:
    return {
        "state": "open",
        "cohort": buffer.cohort.roster.cohort,
        "epoch": buffer.cohort.roster.epoch,
        "support": buffer.support,
        "updates": len(buffer.ids),
        "holders": len(buffer.holders),
        "answers_needed": buffer.cohort.roster.parameters.num_answers,
        "epoch_ends_in_s": max(0, round(buffer.cohort.ends_at - now)),
    }


def _closed_buffer(recovery: Recovery) -> Report:
    members = recovery.roster.members
    missing = [members[holder].device for holder in recovery.missing_from()]
    return {
        "state": "recovering",
        "cohort": recovery.roster.cohort,
        "epoch": recovery.roster.epoch,
        "support": recovery.support,
        "updates": len(recovery.ids),
        "holders": len(recovery.holders),
        "answers": len(recovery.answers),
        "answers_needed": recovery.num_needed,
        "answers_missing": max(0, recovery.num_needed - len(recovery.answers)),
        "missing_from": missing[:MAX_NAMES],
    }


def metrics_report(coordinator: Coordinator, evaluation: Report) -> Report:
    """How good the model is, and how many updates were taken or refused, by reason."""
    counts = coordinator.counts
    return {
        "version": coordinator.version,
        **evaluation,
        "codec": str(coordinator.codec),
        "updates_accepted": counts["updates_accepted"],
        "duplicates": counts["duplicates"],
        "refused": refused(coordinator),
        "check_ins": counts["check_ins"],
        "leases_given": counts["leases_given"],
        "leases_expired": counts["leases_expired"],
        "starts": counts["starts"],
        **({"privacy": told} if (told := coordinator.privacy.report()) else {}),
    }


def refused(coordinator: Coordinator) -> Mapping[str, int]:
    """Return how often each reason refused something, since the task began."""
    head = "refused_"
    return {
        name.removeprefix(head): count
        for name, count in sorted(coordinator.counts.items())
        if name.startswith(head)
    }


def devices_report(coordinator: Coordinator, now: float) -> Report:
    """Who is there, who trains, and whose lease ran out without an update."""
    fleet = coordinator.fleet
    late = [lease.record.device for lease in coordinator.leases.expired.values()]
    return {
        "registered": fleet.num_registered,
        **{state: len(fleet.in_state(state)) for state in ("online", "sleeping", "offline")},
        "training": _running(list(coordinator.leases.running())[:MAX_NAMES], now),
        "late": sorted(late)[:MAX_NAMES],
        "late_count": len(late),
        "offline_names": fleet.in_state("offline")[:MAX_NAMES],
        **_standings(coordinator),
    }


def _standings(coordinator: Coordinator) -> Report:
    """Who may not take part, and whose score is highest of those that may."""
    book = coordinator.conduct
    kept_out = [record.device for record in book.standings]
    suspects = [(device, score) for device, score in book.scores() if score >= SUSPECT]
    suspects.sort(key=lambda each: (-each[1], each[0]))
    return {
        **{
            standing.value: [
                record.device for record in book.standings if record.standing is standing
            ][:MAX_NAMES]
            for standing in (Standing.QUARANTINED, Standing.REVOKED)
        },
        "scores": {
            device: round(score, 1)
            for device, score in suspects[:MAX_NAMES]
            if device not in kept_out
        },
    }


def denied_report(coordinator: Coordinator) -> Report:
    """Whom the broker should let in no more: `fedbus broker up` follows it."""
    return {"devices": coordinator.conduct.cut_off[:MAX_DENIED]}


def alerts_report(coordinator: Coordinator) -> Report:
    """The newest things that went wrong, oldest first."""
    return {"alerts": list(coordinator.alerts)}


def _running(leases: Sequence[Lease], now: float) -> Mapping[str, str]:
    return {
        lease.record.device: f"version {lease.record.version}, {lease.expires_at - now:.0f} s left"
        for lease in leases
    }
