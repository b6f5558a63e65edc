"""Where keys stand in a TOML file."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simulator
from simulator.scenario_toml import KeyPath, key_lines, read_source

READY = sorted((Path(simulator.__file__).parent / "scenarios").glob("*.toml"))
TRICKY = '''\
a.b = 1.5 # = [not] a key
text = """
[no]
k = 1 \\"""
"""
'quoted' = 'c:\\'
when = 1979-05-27 07:32:00

[task.model]
layers = [
  { type = "dense",
    units = 3 },
  "]", # ]
  { type = "relu" },
]
[[class]]
link = { up = 1, outages = [{ for_s = 2 }] }
[[class]]
[class.link]
loss = 2
[[class.outage]]
at = 1
[[class.outage]]
at = 3
'''


def test_keys_are_found_in_tables_arrays_and_inline_tables() -> None:
    lines = key_lines(TRICKY)
    assert lines["a", "b"] == 1
    assert lines[("text",)] == 2
    assert ("no",) not in lines
    assert lines[("quoted",)] == 6
    assert lines["task", "model", "layers", 0, "units"] == 12
    assert lines["task", "model", "layers", 2, "type"] == 14
    assert lines["class", 0, "link", "outages", 0, "for_s"] == 17
    assert lines["class", 1, "link", "loss"] == 20
    assert lines["class", 1, "outage", 0, "at"] == 22
    assert lines["class", 1, "outage", 1, "at"] == 24


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_each_key_of_the_ready_scenarios_stands_on_its_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines, written = key_lines(text), text.split("\n")
    for keys in _keys(tomllib.loads(text)):
        assert str(keys[-1]) in written[lines[keys] - 1]


values = st.recursive(
    st.sampled_from(["1", "-2.5", '"a # b"', "'[x]'", "true", '"""\nk = 1\n"""']),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "]"),
        st.lists(inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"k{at} = {item}" for at, item in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(values, max_size=6))
def test_what_stands_before_a_key_never_moves_its_line(before: list[str]) -> None:
    text = "".join(f"x{at} = {value}\n\n" for at, value in enumerate(before))
    whole = text + "[[t]]\n[[t]]\nlast = 1\n"
    tomllib.loads(whole)
    assert key_lines(whole)["t", 1, "last"] == whole.count("\n")


def test_an_error_names_the_innermost_key_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[a]\nb = 1\n\n[a.c]\nd = 2\n", encoding="utf-8")
    source = read_source(path)
    assert str(source.error("a.c.d: wrong")) == f"{path}:5: a.c.d: wrong"
    assert str(source.error("a.c: d is wrong")) == f"{path}:5: a.c: d is wrong"
    assert str(source.error("a.b.e: missing")) == f"{path}:2: a.b.e: missing"
    assert str(source.error("f: missing")) == f"{path}: f: missing"


def _keys(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Return the paths of all keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (*path, key)
            yield from _keys(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _keys(item, (*path, at))
