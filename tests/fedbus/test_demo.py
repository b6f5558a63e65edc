"""`fedbus demo` with real processes: what it reaches, what it shows, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from broker_config.programs import Engine
from broker_config.running import Broker, running_broker
from fedbus.__main__ import main
from fedbus.workplace import sample
from tests.support.mosquitto import find_mosquitto

pytestmark = pytest.mark.broker

#: For what happens at once on a machine that does nothing else.
DEADLINE_S = 120.0
#: What no demonstration here needs, however little of the machine it gets.
LONG_S = "600"
KEYS = {
    "accuracy",
    "versions",
    "seconds",
    "broker",
    "mode",
    "codec",
    "scheme",
    "updates_accepted",
    "updates_refused",
    "bytes_up_per_update",
    "bytes_down_per_update",
    "devices",
    "alpha",
    "seed",
    "target",
    "mqtt",
}


def fedbus(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedbus", *arguments]


def demonstrated(*options: str) -> subprocess.CompletedProcess[str]:
    """A demonstration to its end."""
    return subprocess.run(
        fedbus("demo", *options), capture_output=True, text=True, timeout=900, check=False
    )


def children_of(pid: int) -> dict[int, str]:
    """Process ids and command lines of the direct children that have not just ended."""
    children = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            children[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return children


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.05)


def noise(folder: Path) -> Path:
    """Data of which nothing can be learnt."""
    rng = np.random.default_rng(5)
    path = folder / "noise.npz"
    np.savez(path, x=rng.normal(size=(180, 4)), y=rng.integers(0, 3, 180))
    return path


@contextmanager
def endless_demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Two devices that learn noise in the open until they are told to end, in ``folder``/work."""
    wanted = ["--devices", "2", "--scheme", "none", "--target", "1", "--timeout", LONG_S]
    command = fedbus("demo", "--data", str(noise(folder)), *wanted, *options)
    (folder / "work").mkdir()
    env = {**os.environ, "TMPDIR": str(folder / "work")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as demo:
        try:
            wait_until(lambda: len(children_of(demo.pid)) == 4)
            yield demo
        finally:
            if demo.poll() is None:
                demo.send_signal(signal.SIGTERM)


def check_that_a_signal_leaves_nothing(
    demo: subprocess.Popen[str], folder: Path, number: int
) -> None:
    """End a demonstration: no process of it is left, and no file."""
    children = children_of(demo.pid)
    assert list((folder / "work").iterdir())
    demo.send_signal(number)
    said, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 130, said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert list((folder / "work").iterdir()) == []


def needs_mosquitto(engine: str) -> None:
    if engine == "mosquitto" and find_mosquitto() is None and os.environ.get("CI") != "true":
        pytest.skip("mosquitto is not installed")


#: Bytes that a device sends for an update, the talk around it included: 241 of 2,410 numbers as
#: int8 and their places; or all of them masked, and shares for seven others.
BYTES_UP = {"none": (300, 3_000), "seedmask": (4_820, 60_000)}
#: Without masks models go down as differences; with them whole.
BYTES_DOWN = {"none": (300, 4 * 2_410), "seedmask": (2_410, 60_000)}


#: Any two of broker, mode and scheme meet in one of four; the other four would add the third.
LEARNT = [
    ("mosquitto", "buffered", "seedmask"),
    ("mosquitto", "rounds", "none"),
    ("amqtt", "buffered", "none"),
    ("amqtt", "rounds", "seedmask"),
]


@pytest.mark.parametrize(("engine", "mode", "scheme"), LEARNT)
def test_the_digits_are_learnt(engine: str, mode: str, scheme: str, tmp_path: Path) -> None:
    needs_mosquitto(engine)
    out = tmp_path / "out.json"
    asked = [] if scheme == "seedmask" else ["--scheme", scheme]  # it is the default
    asked += ["--timeout", LONG_S, "--json", str(out)]
    ended = demonstrated("--broker", engine, "--mode", mode, *asked)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(out.read_text())
    assert figures.keys() >= KEYS
    assert figures["accuracy"] >= figures["target"] == 0.93
    assert figures["broker"].startswith(engine)
    assert figures["broker"] in ended.stdout
    assert (figures["mode"], figures["devices"], figures["scheme"]) == (mode, 8, scheme)
    assert sum(figures["updates_refused"].values()) < figures["updates_accepted"]
    assert figures["updates_accepted"] >= figures["versions"] > 0
    least, most = BYTES_UP[scheme]
    assert least < figures["bytes_up_per_update"] < most
    least, most = BYTES_DOWN[scheme]
    assert least < figures["bytes_down_per_update"] < most


def test_a_target_out_of_reach_ends_with_status_1(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    few = ["--data", str(noise(tmp_path)), "--devices", "1", "--scheme", "none"]
    ended = demonstrated(*few, "--target", "1", "--timeout", "2", "--json", str(out))
    assert ended.returncode == 1
    assert "not reached" in ended.stdout
    assert json.loads(out.read_text())["reached"] is False


def test_held_out_rows_reach_no_device_and_every_folder_has_its_own_secret(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(3), 60)
    x = rng.normal(size=(180, 4)) + 4 * np.eye(3, 4)[y]
    np.savez(tmp_path / "own.npz", x=x, y=y, client=np.arange(180) % 4)
    kept = tmp_path / "kept"
    own = ["--data", str(tmp_path / "own.npz"), "--keep", str(kept)]
    ended = demonstrated(*own, "--target", "0.8", "--timeout", LONG_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    folders = sorted(path.parent for path in kept.glob("*/device.toml"))
    assert len(folders) == 4

    def rows(path: Path) -> set[bytes]:
        with np.load(path, allow_pickle=False) as arrays:
            return {row.tobytes() for row in arrays["x"]}

    held_out = rows(kept / "aggregator" / "held_out.npz")
    assert len(held_out) == 36
    dealt = [rows(folder / "data.npz") for folder in folders]
    assert sum(map(len, dealt)) == len(set().union(*dealt)) == 144
    assert not held_out & set().union(*dealt)
    secrets = {(folder / "password").read_bytes() for folder in [*folders, kept / "aggregator"]}
    assert len(secrets) == 5
    for folder in folders:
        assert (folder / "password").stat().st_mode & 0o077 == 0
        assert str(kept / "aggregator") not in (folder / "device.toml").read_text()


def test_ctrl_c_ends_every_process_and_removes_every_file(tmp_path: Path) -> None:
    with endless_demo(tmp_path) as demo:
        check_that_a_signal_leaves_nothing(demo, tmp_path, signal.SIGINT)


def test_a_device_that_dies_is_reported_with_its_last_words_and_sigterm_ends_the_others(
    tmp_path: Path,
) -> None:
    with endless_demo(tmp_path) as demo:
        log = next(tmp_path.glob("work/*/device-2/")) / "log"
        wait_until(lambda: "connected" in log.read_text())
        victim = next(
            pid for pid, command in children_of(demo.pid).items() if "/device-2/" in command
        )
        os.kill(victim, signal.SIGKILL)
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if "device-2" in line)
        assert "status -9" in line
        assert next(demo.stdout).strip() in log.read_text()
        check_that_a_signal_leaves_nothing(demo, tmp_path, signal.SIGTERM)


def test_an_aggregator_that_dies_ends_the_demo(tmp_path: Path) -> None:
    with endless_demo(tmp_path) as demo:
        victim = next(
            pid for pid, command in children_of(demo.pid).items() if "aggregator run" in command
        )
        os.kill(victim, signal.SIGKILL)
        said, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 1
    assert "aggregator ended early, status -9" in said


def test_status_follows_a_running_task_and_says_what_is_wrong_until_the_terminal_is_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_mosquitto("mosquitto")
    with endless_demo(tmp_path, "--broker", "mosquitto") as demo:
        broker = next(tmp_path.glob("work/*/broker"))
        port = (broker / "mosquitto.conf").read_text().split("\nlistener ")[1].split()[0]

        def status(task: str, password: Path, deadline: float = 6.0) -> int:
            access = ["--port", port, "--password-file", str(password), "--deadline", str(deadline)]
            return main(["status", "--task", task, *access])

        monitor = broker / "secrets" / "monitor"
        wait_until(lambda: status("demo", monitor, DEADLINE_S) == 0)
        said = capsys.readouterr().out
        assert "the aggregator is online" in said
        assert "waiting for" in said
        assert status("other", monitor) == 1
        assert "knows nothing of a task 'other'" in capsys.readouterr().err
        (tmp_path / "guess").write_text("guess")
        (tmp_path / "guess").chmod(0o600)
        assert status("demo", tmp_path / "guess") == 1
        assert "no way in" in capsys.readouterr().err
        check_that_a_signal_leaves_nothing(demo, tmp_path, signal.SIGHUP)


@pytest.mark.parametrize(("engine", "mqtt"), [("mosquitto", "5"), ("amqtt", "3.1.1")])
def test_a_task_is_watched_where_there_is_no_terminal(
    engine: Engine, mqtt: str, tmp_path: Path
) -> None:
    needs_mosquitto(engine)
    with running_broker(tmp_path / "broker", engine=engine) as broker, ExitStack() as stack:
        password = str(broker.files.secret("monitor"))
        access = ["--port", str(broker.port), "--password-file", password, "--protocol", mqtt]
        config = str(write_aggregator(tmp_path, broker, mqtt))
        aggregator = started(stack, "aggregator", "run", "--config", config)
        watch = started(stack, "watch", "--task", "digits", "--deadline", "120", *access)
        assert watch.stdout is not None
        assert f"the aggregator is online (MQTT {mqtt})" in next(watch.stdout)
        aggregator.send_signal(signal.SIGTERM)
        assert any("the aggregator is offline" in line for line in watch.stdout)
        watch.send_signal(signal.SIGINT)
        assert aggregator.wait(DEADLINE_S) == 0
        assert watch.wait(DEADLINE_S) == 0


def started(stack: ExitStack, *arguments: str) -> subprocess.Popen[str]:
    """A command that is ended with ``stack``, however that comes."""
    process = stack.enter_context(
        subprocess.Popen(
            fedbus(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    )
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    for last in (watchdog.join, watchdog.cancel, process.kill):
        stack.callback(last)
    return process


def write_aggregator(folder: Path, broker: Broker, mqtt: str) -> Path:
    """The sample configuration, for this broker."""
    text = sample("fed.toml").replace("aggregator-state", str(folder / "state"))
    text = text.replace('scheme = "seedmask"', 'scheme = "none"')
    text = text.replace("# required = true", "required = false")
    text = text.replace("# port = 1883", f"port = {broker.port}")
    text = text.replace('# protocol = "auto"', f'protocol = "{mqtt}"')
    secret = broker.files.secret("aggregator")
    text = text.replace('# password_file = ""', f'password_file = "{secret}"')
    (folder / "fed.toml").write_text(text, encoding="utf-8")
    return folder / "fed.toml"
