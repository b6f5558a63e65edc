"""What the threat model and the specification say in numbers and names is so."""

import re
from pathlib import Path

import pytest

from protocol.secagg.parameters import defaults
from tests.protocol.secagg.test_lattice import BETRAYED

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
THREATS = (DOCS / "threat-model.md").read_text(encoding="utf-8")
SCHEMES = (DOCS / "secure-aggregation.md").read_text(encoding="utf-8")
PAGES = (
    "ARCHITECTURE.md",
    "SECURITY.md",
    "docs/threat-model.md",
    "docs/secure-aggregation.md",
    "docs/protocol.md",
)


def test_the_lattice_figures_are_those_that_the_test_shows() -> None:
    row = re.compile(
        r"^\| (\d+), (\d+), (\d+).* \| T \+ (\d) \| T \+ (\d) \| 0 of 5 \|$", re.MULTILINE
    )
    told = {tuple(map(int, found)) for found in row.findall(THREATS)}
    assert told == {(*numbers, one, ten) for numbers, one, ten in BETRAYED}


def test_the_default_numbers_are_the_codes() -> None:
    table = re.search(
        r"^\| N \|.*\n\|[-|]+\n\| t .*\n\| T .*\n\| U .*\n\| may be away .*$", SCHEMES, re.MULTILINE
    )
    assert table is not None
    lines = [line.split("|")[2:-1] for line in table[0].splitlines() if "--" not in line]
    for size, malicious, noise, answers, away in zip(*lines, strict=True):
        assert defaults(int(size)) == (int(malicious), int(noise), int(answers)), size
        assert int(away) == int(size) - int(answers)


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/threat-model.md"])
def test_every_test_that_a_promise_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+(?:\.\w+)?)(?:::(\w+))?`", text)
    missing = [name for name, _ in named if not (ROOT / name).exists()]
    assert not missing
    for name, function in named:
        assert not function or f"\ndef {function}(" in (ROOT / name).read_text("utf-8"), function
    # In full and in backticks, or the lines above would not see them.
    assert re.findall(r"tests/\w|\btest_\w+\.py", re.sub(r"`tests/[^`]+`", "", text)) == []


def test_every_rule_that_the_promise_rests_on_names_its_test() -> None:
    table = THREATS.partition("## The rules that the promise rests on\n\n")[2].partition("\n\n")[0]
    rules = table.splitlines()[2:]
    assert len(rules) > 10
    assert [rule for rule in rules if "`tests/" not in rule] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|json|md))`", text))
    linked = {f"docs/{name}" for name in re.findall(r"\]\(([a-z-]+\.md)\)", text)}
    missing = [name for name in named | linked if not (ROOT / name).exists()]
    assert not missing
