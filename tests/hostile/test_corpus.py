"""What fuzzing has found worth keeping is tried by each test run; ``make fuzz`` finds more."""

from pathlib import Path

import pytest

from tests.hostile.fuzz import CORPUS, inputs, mutate
from tests.hostile.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_kept_input_breaks_a_decoder(name: str) -> None:
    kept = inputs(name)
    assert kept, f"no corpus for {name}: run make fuzz"
    for path in kept:
        TARGETS[name](path.read_bytes())


def test_every_folder_of_the_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_an_input_that_breaks_a_decoder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(TARGETS, "topics", broken)
    assert not mutate("topics", tmp_path, 1.0)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("crash-")
