"""`fedbus demo --mode rounds --scheme pairwise`, and what the status says about such a round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedbus.__main__ import main
from fedbus.status import status_lines
from fedbus.view import TaskView
from protocol.topics import Topics

TOPICS = Topics("fedbus/1", "digits")


@pytest.mark.broker
def test_the_digits_are_learnt_in_pairwise_rounds(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--mode", "rounds", "--scheme", "pairwise", "--timeout", "600", "--json", str(out)]
    ended = subprocess.run(
        [sys.executable, "-m", "fedbus", "demo", *options],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(out.read_text())
    assert figures["accuracy"] >= 0.93
    assert (figures["mode"], figures["scheme"]) == ("rounds", "pairwise")
    assert figures["updates_accepted"] >= 5 * figures["versions"] > 0
    # 2,411 words of four bytes, and all that is said around them by eight devices
    assert 4 * 2_411 < figures["bytes_up_per_update"] < 30_000


def test_it_works_in_rounds_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--scheme", "pairwise", "--mode", "buffered"]) == 2
    assert "--mode rounds" in capsys.readouterr().err


def test_the_status_says_how_far_the_round_is_and_who_is_missing() -> None:
    view = TaskView(TOPICS)
    report = {
        "mode": "rounds",
        "epochs": {"all": {"epoch": 2, "devices": 8, "ends_in_s": 7200}},
        "round": {
            "cohort": "all",
            "epoch": 2,
            "waits_for": "signatures",
            "advertised": 8,
            "dealt": 7,
            "uploaded": 6,
            "signed": 4,
            "answered": 0,
            "needed": 5,
            "missing": 2,
            "missing_from": ["pump-3", "pump-7"],
        },
    }
    view.see(TOPICS.monitor("rounds"), json.dumps(report).encode())
    lines = list(status_lines(view))
    assert any("updates are masked" in line for line in lines)
    assert (
        "  round of cohort all, epoch 2: 8 advertised, 7 dealt, 6 uploaded, 4 signed, 0 answered;"
        " 5 are needed; waits for signatures of pump-3, pump-7"
    ) in lines
