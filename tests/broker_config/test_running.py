"""Starting and stopping brokers: ports, failures, the foreground."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_config.accounts import MONITOR
from broker_config.authority import Authority
from broker_config.files import BrokerFiles, write_broker, write_secure_broker
from broker_config.probe import accepts
from broker_config.programs import BrokerError, Engine, find_program
from broker_config.running import free_port, running_broker, running_secure_broker
from protocol.errors import ConfigError
from tests.broker_config.bare_client import BareClient
from tests.support.mosquitto import require_mosquitto

ENGINES = pytest.mark.parametrize("engine", ["mosquitto", "amqtt"])
DEADLINE_S = 10.0
SERVE = """
import sys
from pathlib import Path
from broker_config.running import serve
sys.exit(serve(
    Path(sys.argv[1]), int(sys.argv[2]), devices=["a"], engine=sys.argv[3],
    on_start=lambda broker: print(broker.name, broker.pid, flush=True),
))
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        yield int(somebody.getsockname()[1])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_zombie(pid: int) -> bool:
    """Whether it has ended, and whoever adopted it has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def lets_in(files: BrokerFiles, port: int) -> bool:
    return accepts("127.0.0.1", port, MONITOR, files.secret(MONITOR).read_text().strip())


@pytest.mark.broker
@ENGINES
def test_a_broker_runs_while_the_context_lasts(tmp_path: Path, engine: Engine) -> None:
    if engine == "mosquitto":
        require_mosquitto()
    with running_broker(tmp_path, ["a"], engine=engine) as broker:
        assert broker.name.startswith(f"{engine} ")
        assert broker.embedded is (engine == "amqtt")
        assert lets_in(broker.files, broker.port)
    assert not is_running(broker.pid)
    assert not lets_in(broker.files, broker.port)


@pytest.mark.broker
@pytest.mark.broker
def test_a_client_is_told_no_more_than_it_needs(tmp_path: Path) -> None:
    """What mosquitto 2.0.11 says in CONNACK it never frees."""
    require_mosquitto()
    with running_broker(tmp_path, engine="mosquitto") as broker:
        password = broker.files.secret(MONITOR).read_text().strip()
        with BareClient(broker.port, login=(MONITOR, password), client_id="one") as client:
            assert client.told == {"ReceiveMaximum": 2_000, "MaximumPacketSize": 262_144}


def test_mosquitto_is_preferred(tmp_path: Path) -> None:
    require_mosquitto()
    with running_broker(tmp_path) as broker:
        assert not broker.embedded


def test_without_mosquitto_the_embedded_broker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert find_program().embedded
    with pytest.raises(BrokerError, match="apt-get install mosquitto"):
        find_program("mosquitto")


@pytest.mark.broker
@ENGINES
def test_a_port_that_somebody_took_first_is_given_up(
    tmp_path: Path, engine: Engine, taken_port: int
) -> None:
    if engine == "mosquitto":
        require_mosquitto()
    ports = [taken_port, taken_port, free_port()]
    wanted = ports[-1]
    with running_broker(tmp_path, engine=engine, choose_port=lambda _: ports.pop(0)) as broker:
        assert broker.port == wanted
        assert lets_in(broker.files, wanted)


@pytest.mark.broker
def test_a_given_port_that_is_taken_is_an_error_that_names_it(
    tmp_path: Path, taken_port: int
) -> None:
    with (
        pytest.raises(BrokerError, match=f"127.0.0.1:{taken_port}.*in use"),
        running_broker(tmp_path, port=taken_port),
    ):
        pytest.fail("must not start")


@pytest.mark.broker
def test_a_broker_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    require_mosquitto()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mosquitto.db").write_bytes(b"no database")
    with (
        pytest.raises(BrokerError, match=r"(?s)mosquitto .* ended with status.*database"),
        running_broker(tmp_path, engine="mosquitto"),
    ):
        pytest.fail("must not start")


@pytest.mark.parametrize("name", ["passwords", "broker.key", "secrets/monitor"])
def test_a_broker_with_secrets_that_others_may_read_is_not_started(
    tmp_path: Path, name: str
) -> None:
    authority = Authority.create(tmp_path / "ca", "test")
    files = write_secure_broker(tmp_path / "broker", authority, ["127.0.0.1"])
    (files.directory / name).chmod(0o640)
    with (
        pytest.raises(ConfigError, match=f"{name}: others may read it: chmod 600"),
        running_secure_broker(files.directory),
    ):
        pytest.fail("must not start")
    with (
        pytest.raises(ConfigError, match=f"{name}: others may read it: chmod 600"),
        running_broker(files.directory, engine="amqtt"),
    ):
        pytest.fail("must not start")


def test_a_bad_device_name_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), running_broker(tmp_path, ["Sensor 1"], engine="amqtt"):
        pytest.fail("must not start")


@pytest.mark.broker
@ENGINES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serving_ends_with_the_signal_and_leaves_no_broker(
    tmp_path: Path, engine: Engine, number: signal.Signals
) -> None:
    if engine == "mosquitto":
        require_mosquitto()
    command = [sys.executable, "-c", SERVE, str(tmp_path), str(free_port()), engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        said = serving.stdout.readline().split()
        assert said[0].decode() == engine
        assert is_running(int(said[2]))
        serving.send_signal(signal.SIGHUP)  # read the accounts again, and go on
        serving.send_signal(number)
        assert serving.wait(DEADLINE_S) == 0
    assert not is_running(int(said[2]))


@pytest.mark.broker
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children of their parent's end")
@ENGINES
def test_a_broker_ends_with_who_serves_it_also_by_kill_9(tmp_path: Path, engine: Engine) -> None:
    if engine == "mosquitto":
        require_mosquitto()
    command = [sys.executable, "-c", SERVE, str(tmp_path), str(free_port()), engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        pid = int(serving.stdout.readline().split()[2])
        serving.kill()
        until = time.monotonic() + DEADLINE_S
        while is_running(pid) and not is_zombie(pid):
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.broker
def test_a_port_that_the_folders_own_broker_has_is_said_with_its_pid(tmp_path: Path) -> None:
    require_mosquitto()
    with (
        running_broker(tmp_path, engine="mosquitto") as broker,
        pytest.raises(BrokerError, match=f"runs already, its pid is {broker.pid};"),
        running_broker(tmp_path, engine="mosquitto", port=broker.port),
    ):
        raise AssertionError


@pytest.mark.broker
def test_serving_ends_with_the_broker_and_its_status(tmp_path: Path) -> None:
    require_mosquitto()
    command = [sys.executable, "-c", SERVE, str(tmp_path), str(free_port()), "mosquitto"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        os.kill(int(serving.stdout.readline().split()[2]), signal.SIGKILL)
        assert serving.wait(DEADLINE_S) == -signal.SIGKILL % 256


@pytest.mark.broker
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("starter", ["root", "nobody"])
def test_the_shipped_user_line_works_for_root_and_for_anybody_else(starter: str) -> None:
    """Root becomes mosquitto; anybody else stays who they are. The files are the runner's own."""
    require_mosquitto()
    runner = pwd.getpwnam("mosquitto" if starter == "root" else starter)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = write_broker(Path(folder), port=port)
        files.config.write_text(files.config.read_text().replace("user root", "user mosquitto"))
        for path in (files.directory, *files.directory.rglob("*")):
            os.chown(path, runner.pw_uid, runner.pw_gid)
        command = find_program("mosquitto").command(files, "", port, "")
        with subprocess.Popen(command, user=starter, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + DEADLINE_S
            while not lets_in(files, port) and process.poll() is None:
                assert time.monotonic() < until
            assert Path(f"/proc/{process.pid}").stat().st_uid == runner.pw_uid
            process.terminate()
        assert (files.data / "mosquitto.db").stat().st_uid == runner.pw_uid
