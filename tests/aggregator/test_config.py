"""The aggregator's file: what a key that is none says."""

from pathlib import Path

import pytest

from aggregator.config import load_config
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fairnes]\nmax_share = 0.1\n", "fairnes: unknown key; did you mean 'fairness'?"),
        ("[hooks]\nx = 1\n", "known are .*, task, .*, bandwidth, selection, robust, "),
        ("[robust]\nrulle = 1\n", "robust.rulle: unknown key; did you mean 'rule'?"),
    ],
)
def test_an_unknown_key_is_told_with_those_there_are(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(file)
