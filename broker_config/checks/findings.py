"""What a check found. Plain values."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How grave it is: ``skip`` means that nothing can be said, and why."""

    OK = "ok"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of the broker. ``fix`` is what to do about it; empty where nothing is to do."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check, Verdict.OK, found)


def skip(check: str, found: str, fix: str = "") -> Finding:
    """Return that a check could not be made, and what would make it possible."""
    return Finding(check, Verdict.SKIP, found, fix)


def warn(check: str, found: str, fix: str) -> Finding:
    """Return a finding with which a federation works, less well than it could."""
    return Finding(check, Verdict.WARN, found, fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Return a finding with which updates are lost, or anybody can do anything."""
    return Finding(check, Verdict.FAIL, found, fix)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them is a failure."""
    return any(finding.verdict is Verdict.FAIL for finding in findings)
