"""A program on a leash: the same process, which ends with its parent."""

import os
import subprocess
import sys

import pytest

from broker_config.leash import leashed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others run programs as they are")


def test_the_program_keeps_the_id_and_gets_every_argument() -> None:
    say = "import os, sys; print(os.getpid(), sys.argv[1:])"
    command = leashed([sys.executable, "-c", say, "a b", "--c"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=20)
    assert said == f"{process.pid} ['a b', '--c']\n"


def test_a_program_whose_parent_has_ended_already_is_not_started() -> None:
    command = leashed([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
