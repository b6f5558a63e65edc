"""The aggregator's file: what is said of a key that is none, or that is wanting."""

from pathlib import Path

import pytest

from aggregator.config import load_config
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fairnes]\nmax_share = 0.1\n", "fairnes: unknown key; did you mean 'fairness'?"),
        ("[hooks]\nx = 1\n", "known are .*, task, .*, bandwidth, selection, robust, "),
        ("state_dir = 's'\n[robust]\nrule = 'mean'\n", "task: missing; set it"),
    ],
)
def test_a_mistake_names_the_key_and_those_there_are(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(file)
