"""`fedbus doctor`: a good broker passes, and every fault is found on a broker that has it."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR
from broker_config.checks import delivery, examination, reach, rights, visitors
from broker_config.checks.findings import Finding, Verdict
from broker_config.checks.visitors import Bench, Side
from broker_config.files import BrokerFiles, write_broker
from broker_config.mosquitto import render_acl
from broker_config.running import free_port
from fedbus.__main__ import main
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.broker_config.bare_client import DEADLINE_S, BareClient
from tests.support.mosquitto import Mosquitto, require_mosquitto
from transport import BrokerSettings

pytestmark = pytest.mark.broker

TOPICS: Final = Topics(DEFAULT_PREFIX, "doctor-test")
DEVICE: Final = "pump-1"


def side(name: str, account: str, port: int, password: str | None) -> Side:
    user = None if password is None else account
    return Side(
        name,
        account,
        BrokerSettings(
            port=port, client_id="x", username=user, password=password, receive_maximum=1_000
        ),
    )


def bench_at(port: int, files: BrokerFiles | None = None, protocol: str = "5") -> Bench:
    """Both sides of a broker; without ``files`` one that knows no accounts."""

    def one(name: str, account: str) -> Side:
        secret = None if files is None else files.secret(account).read_text().strip()
        made = side(name, account, port, secret)
        return replace(made, settings=replace(made.settings, protocol=protocol))

    return Bench(TOPICS, one("aggregator", AGGREGATOR), one("device", DEVICE))


@contextmanager
def generated(folder: Path, edit: Callable[[str], str] = str, acl: str = "") -> Iterator[Bench]:
    """Run mosquitto on our files, after ``edit`` has spoiled its configuration."""
    require_mosquitto()
    port = free_port()
    files = write_broker(folder, [DEVICE], port=port)
    if acl:
        files.acl.write_text(acl)
    with Mosquitto(folder, edit(files.config.read_text()), port=port):
        yield bench_at(port, files)


@contextmanager
def stock(folder: Path, more: str = "") -> Iterator[Bench]:
    """Run mosquitto as most people have it: anybody may do anything."""
    require_mosquitto()
    with Mosquitto(folder, f"allow_anonymous true\n{more}") as broker:
        yield bench_at(broker.port)


def replaced(line: str, by: str) -> Callable[[str], str]:
    def edit(config: str) -> str:
        assert config.count(line) == 1
        return config.replace(line, by)

    return edit


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in findings}


def configurations(folder: Path, bench: Bench, secrets: BrokerFiles) -> list[str]:
    """Write both configuration files; return the options that name them."""
    port = bench.aggregator.settings.port
    fed, device = folder / "fed.toml", folder / "device.toml"
    fed.write_text(
        f'state_dir = "{folder}/a"\n[task]\ntask = "t"\n'
        '[task.model]\ninput = [1]\nloss = "mean_squared_error"\n'
        'layers = [{ type = "dense", units = 1 }]\n'
        f'[broker]\nport = {port}\npassword_file = "{secrets.secret(AGGREGATOR)}"\n'
        '[secure]\nscheme = "none"\n'
    )
    device.write_text(
        f'task = "t"\ndevice = "{DEVICE}"\nstate_dir = "{folder}/d"\n'
        f'[broker]\nport = {port}\npassword_file = "{secrets.secret(DEVICE)}"\n'
    )
    return ["--config", str(fed), "--device", str(device)]


def test_the_shipped_broker_passes_every_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with generated(tmp_path) as bench:
        options = configurations(tmp_path, bench, BrokerFiles(tmp_path))
        assert main(["doctor", *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] is True
    faults = [each for each in said["checks"] if each["verdict"] in {"warn", "fail"}]
    assert [each["check"] for each in faults if each["check"] != "clock"] == []
    assert len(said["checks"]) >= 16


def test_the_shipped_broker_passes_in_mqtt_3_1_1(tmp_path: Path) -> None:
    with generated(tmp_path) as bench:
        older = bench_at(bench.device.settings.port, BrokerFiles(tmp_path), "3.1.1")
        found = list(examination.examine(TOPICS, older.aggregator, older.device))
    odd = [each for each in found if each.verdict in {Verdict.WARN, Verdict.FAIL}]
    assert [each for each in odd if each.check != "clock"] == []


def test_a_stock_broker_is_found_open_and_lossy(tmp_path: Path) -> None:
    with stock(tmp_path, "sys_interval 1\n") as bench:
        found = verdicts(list(examination.examine(TOPICS, bench.aggregator, bench.device)))
        until = time.monotonic() + DEADLINE_S
        while (later := delivery.check_dropped(bench)).verdict is Verdict.OK:
            assert time.monotonic() < until, "the broker never says what it dropped"
    assert found["strangers"] is Verdict.FAIL
    assert found["foreign-topics"] is Verdict.FAIL
    assert found["queue"] is Verdict.FAIL
    assert found["own-topics"] is found["retained"] is found["away"] is Verdict.OK
    assert later.verdict is Verdict.WARN  # what the queue check lost


def test_one_right_too_few_is_named(tmp_path: Path) -> None:
    rules = render_acl()
    line = "pattern write fedbus/1/+/up/+/%u\n"
    assert rules.count(line) == 1
    with generated(tmp_path, acl=rules.replace(line, "")) as bench:
        own, foreign = rights.check_rights(bench)
    assert own.verdict is Verdict.FAIL
    assert own.found == (
        f"1 of 22 ways are shut: fedbus/1/doctor-test/up/0/{DEVICE} from device to aggregator"
    )
    assert foreign.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (
            "pattern read fedbus/1/+/dev/+/out",
            f"device reads fedbus/1/doctor-test/dev/{DEVICE}/out",
        ),
        ("pattern write fedbus/1/+/up/+/+", "device writes fedbus/1/doctor-test/up/0/doctor-other"),
        (
            "pattern read fedbus/1/+/share/+/+",
            f"device reads fedbus/1/doctor-test/share/doctor-other/{DEVICE}",
        ),
        (
            "user aggregator\ntopic read fedbus/1/+/share/+/+",
            f"aggregator reads fedbus/1/doctor-test/share/doctor-other/{DEVICE}",
        ),
    ],
)
def test_one_right_too_many_is_named(tmp_path: Path, rule: str, found: str) -> None:
    rules = render_acl()
    with generated(tmp_path, acl=f"{rules}\n{rule}\n") as bench:
        own, foreign = rights.check_rights(bench)
    assert own.verdict is Verdict.OK
    assert foreign.verdict is Verdict.FAIL
    assert found in foreign.found


def test_rules_for_one_task_leave_no_room_for_probes_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (rights, visitors):
        monkeypatch.setattr(module, "ANSWER_S", 0.4)  # for what never comes
    with generated(tmp_path, acl=render_acl(task="t")) as bench:
        own, _ = rights.check_rights(bench)
        there = rights.check_rights(replace(bench, topics=Topics(DEFAULT_PREFIX, "t")))
    assert own.verdict is Verdict.FAIL
    assert "--task" in own.fix
    assert [each.verdict for each in there] == [Verdict.OK, Verdict.OK]


@pytest.mark.parametrize(
    ("edit", "check", "verdict"),
    [
        (replaced("max_packet_size 262144", "max_packet_size 20000"), "packet_size", "warn"),
        (replaced("max_packet_size 262144", "message_size_limit 20000"), "packet_size", "fail"),
        (
            replaced("max_packet_size 262144", "retain_available false"),
            "retained",
            "fail",
        ),
        (
            replaced("max_queued_messages 1000000", "max_queued_messages 1000"),
            "queue",
            "fail",
        ),
        (replaced("max_queued_bytes 268435456", "max_queued_bytes 1000000"), "queue", "fail"),
    ],
)
def test_a_broker_that_keeps_too_little_fails_the_check_for_it(
    tmp_path: Path, edit: Callable[[str], str], check: str, verdict: str
) -> None:
    with generated(tmp_path, edit) as bench:
        found: Finding = getattr(delivery, f"check_{check}")(bench)
    assert found.verdict.value == verdict, found
    assert found.fix


def test_a_window_of_ten_is_warned_of(tmp_path: Path) -> None:
    """MQTT 3.1.1 has no receive maximum, so that the broker's own window holds."""
    edit = replaced("max_inflight_messages 2000", "max_inflight_messages 10")
    with generated(tmp_path, edit) as bench:
        found = delivery.check_in_flight(
            bench_at(bench.device.settings.port, BrokerFiles(tmp_path), "3.1.1")
        )
    assert found.verdict is Verdict.WARN
    assert found.found.startswith("10 messages")


def test_a_broker_that_forgets_the_anonymous_is_found_out(tmp_path: Path) -> None:
    """They have no queue, and shared subscriptions that deliver nothing: stock amqtt."""
    port = free_port()
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL.format(port=port))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        bench = bench_at(port, protocol="3.1.1")
        away, shared = delivery.check_away(bench), delivery.check_shared(bench)
    finally:
        process.kill()
        process.communicate()
    assert away.verdict is Verdict.FAIL
    assert shared.verdict is Verdict.WARN


#: amqtt as its own manual begins.
FORGETFUL: Final = """
import asyncio
from amqtt.broker import Broker

async def serve():
    anonymous = {{"amqtt.plugins.authentication.AnonymousAuthPlugin": {{"allow_anonymous": True}}}}
    listeners = {{"default": {{"type": "tcp", "bind": "127.0.0.1:{port}"}}}}
    broker = Broker({{"listeners": listeners, "plugins": anonymous}})
    await broker.start()
    print("up", flush=True)
    await asyncio.sleep(60)

asyncio.run(serve())
"""


def test_a_will_that_a_go_between_holds_back_is_missed(tmp_path: Path) -> None:
    with generated(tmp_path) as bench, _sticky(bench.device.settings.port) as port:
        detour = replace(bench.device, settings=replace(bench.device.settings, port=port))
        found = delivery.check_will(replace(bench, device=detour))
    assert found.verdict is Verdict.WARN, found


@contextmanager
def _sticky(port: int) -> Iterator[int]:
    """A go-between that does not tell the broker when a client is gone, as some load balancers."""
    ends: list[socket.socket] = []

    def pipe(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)

    def serve(door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = door.accept()
                broker = socket.create_connection(("127.0.0.1", port))
                ends.extend((client, broker))
                for pair in ((client, broker), (broker, client)):
                    threading.Thread(target=pipe, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        keeper = threading.Thread(target=serve, args=(door,), daemon=True)
        keeper.start()
        try:
            yield door.getsockname()[1]
        finally:
            door.shutdown(socket.SHUT_RDWR)
            keeper.join(5)
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def test_a_wrong_password_is_told_from_a_broker_that_is_not_there(tmp_path: Path) -> None:
    with generated(tmp_path) as bench:
        settings = replace(bench.device.settings, password="wrong")  # noqa: S106 - meant to be
        wrong = reach.check_connect(replace(bench.device, settings=settings))
        right = reach.check_connect(bench.device)
        strangers = reach.check_strangers(bench.device)
    gone = reach.check_connect(bench.device)
    assert (wrong.verdict, right.verdict, gone.verdict) == (Verdict.FAIL, Verdict.OK, Verdict.FAIL)
    assert "refuses us" in wrong.found
    assert "refuses us" not in gone.found
    assert verdicts(reach.check_strangers(bench.device)) == {
        "strangers": Verdict.SKIP,
        "wrong-password": Verdict.SKIP,
    }
    assert verdicts(strangers) == {"strangers": Verdict.OK, "wrong-password": Verdict.OK}


def test_a_broker_that_dies_during_the_examination_fails_what_follows(tmp_path: Path) -> None:
    with generated(tmp_path) as bench:
        findings = examination.examine(TOPICS, bench.aggregator, bench.device)
        before = verdicts(list(takewhile(lambda each: each.check != "packet-size", findings)))
    after = verdicts(list(findings))
    assert before["foreign-topics"] is Verdict.OK
    assert after == dict.fromkeys(
        ("retained", "will", "away", "queue", "in-flight", "shared"), Verdict.FAIL
    )


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No retained message, and no session that goes on queueing."""
    with generated(tmp_path) as bench:
        list(examination.examine(TOPICS, bench.aggregator, bench.device))
    with generated(tmp_path) as bench:  # stopped and started: what is kept was saved
        login = (AGGREGATOR, BrokerFiles(tmp_path).secret(AGGREGATOR).read_text().strip())
        with BareClient(bench.aggregator.settings.port, login=login) as reader:
            for topic in rights.probe_topics(TOPICS, DEVICE):
                reader.subscribe(topic)
            reader.publish(TOPICS.plan(), b"end")
            reader.wait_for_message(TOPICS.plan(), b"end")
            assert reader.received == [(TOPICS.plan(), b"end")]
    assert b"fedbus-doctor" not in (tmp_path / "data" / "mosquitto.db").read_bytes()
