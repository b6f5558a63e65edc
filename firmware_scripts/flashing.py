"""Look at a target, and do there what was planned."""

from collections.abc import Sequence
from shlex import join
from typing import Final

from firmware_scripts.plan import Entry, Found, Plan, make_plan, paths_of_interest, plan_rollback
from firmware_scripts.target import Target
from firmware_scripts.wish import CURRENT, PREVIOUS, Wish

#: What ``--python`` must pass on the target; says on stderr what is missing.
CHECK: Final = """
import importlib, importlib.metadata, sys
bad = [] if sys.version_info >= (3, 11) else ['Python >= 3.11']
for module in ('zlib', 'msgpack', 'nacl.utils', 'numpy', 'paho.mqtt.client'):
    try:
        importlib.import_module(module)
    except ImportError as error:
        bad.append(str(error))
if not bad and int(importlib.metadata.version('paho-mqtt').split('.')[0]) < 2:
    bad.append('paho-mqtt >= 2')
sys.exit('; '.join(bad))
""".strip()


def flash_plan(target: Target, wish: Wish, *, setup_now: bool) -> Plan:
    """Look, and plan. Changes nothing. Raises PlanError or TargetError."""
    return make_plan(wish, look(target, paths_of_interest(wish), wish.python), setup_now=setup_now)


def rollback_plan(target: Target) -> Plan:
    """Plan the way back. Changes nothing. Raises PlanError or TargetError."""
    return plan_rollback(look(target, [CURRENT, PREVIOUS]))


def act(target: Target, plan: Plan) -> None:
    """Do it. Raises TargetError; then the device still has its old release."""
    if not plan.changes_nothing:
        target.run(plan.script, plan.payload)


def look(target: Target, paths: Sequence[str], python: str = "") -> Found:
    """Return what is on the target now. Raises TargetError."""
    script = [join(["look", *paths]), "facts"]
    if python:
        script.append(join(["interpreter", python, CHECK]))
    entries: dict[str, Entry] = {}
    releases = []
    facts = set()
    interpreter = ""
    for line in target.run(script).splitlines():
        match line.split("\t"):
            case [path, kind, value, mode]:
                entries[path] = Entry(kind, value, mode)
            case ["release", name]:
                releases.append(name)
            case ["interpreter", verdict]:
                interpreter = verdict
            case [fact]:
                facts.add(fact)
    return Found(
        entries=entries,
        releases=tuple(releases),
        has_etc="etc" in facts,
        runs_systemd="systemd" in facts,
        unfinished="unfinished" in facts,
        interpreter=interpreter,
    )
