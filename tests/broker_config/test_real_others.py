"""The generated configurations on the real NATS and RabbitMQ, with certificates of our authority.

`fedbus doctor` asks; what it finds on a faulty broker is the matter of test_doctor.py.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR
from broker_config.authority import Authority
from broker_config.checks import delivery, examination, reach, rights, visitors
from broker_config.checks.findings import Finding, Verdict
from broker_config.checks.visitors import Bench, Side
from broker_config.others import nats, rabbitmq
from broker_config.others.wanted import Wanted
from broker_config.private_files import replace as write
from broker_config.running import free_port
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.broker_config.bare_client import V3, BareClient
from tests.support.servers import nats_server, rabbitmq_server
from transport import BrokerSettings, Tls

pytestmark = pytest.mark.broker

TOPICS: Final = Topics(DEFAULT_PREFIX, "doctor-test")
DEVICES: Final = ("pump-1", "pump-2")
PATIENCE_S: Final = 30.0
#: So long nothing may come of what should come: who counts would stop.
QUIET_S: Final = 5.0
Run = Callable[[Path], AbstractContextManager[None]]


@dataclass
class Site:
    """A running broker, and what its clients show."""

    folder: Path
    port: int
    authority: Authority

    def identity(self, account: str) -> tuple[Path, Path, Path]:
        certificate, key = self.folder / f"{account}.crt", self.folder / f"{account}.key"
        if not key.exists():
            issued = self.authority.issue_client(account)
            write(certificate, issued.certificate)
            write(key, issued.key)
        return self.folder / "ca.crt", certificate, key

    def bench(self) -> Bench:
        aggregator, device = (
            BrokerSettings(
                port=self.port,
                client_id="x",
                receive_maximum=1_000,
                tls=Tls(*self.identity(account)),
            )
            for account in (AGGREGATOR, "pump-1")
        )
        return Bench(
            TOPICS, Side("aggregator", AGGREGATOR, aggregator), Side("device", "pump-1", device)
        )


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of the checks end when the answer comes, and here it does, if not at once."""
    for module in (visitors, delivery, rights):
        for name in ("CONNECT_S", "ANSWER_S"):
            if name in vars(module):
                monkeypatch.setattr(module, name, PATIENCE_S)
    monkeypatch.setattr(visitors, "QUIET_S", QUIET_S)


@contextmanager
def site(folder: Path, run: Run, render: Callable[[Wanted], dict[str, str]]) -> Iterator[Site]:
    """Lay out a broker's folder as its operator would, on loopback and free ports; run it."""
    authority = Authority.create(folder / "ca", "test")
    home = folder / "server"
    home.mkdir()
    own = authority.issue_server("broker", ["127.0.0.1"])
    write(home / "broker.crt", own.certificate)
    write(home / "broker.key", own.key)
    write(home / "ca.crt", authority.certificate_pem)
    port = free_port()
    for name, text in render(Wanted(devices=DEVICES, port=port)).items():
        local = text.replace("127.0.0.1:4222", f"127.0.0.1:{free_port()}")
        local = local.replace("127.0.0.1:5672", f"127.0.0.1:{free_port()}")
        local = local.replace(f"  port: {port}\n", f"  host: 127.0.0.1\n  port: {port}\n")
        local = local.replace(f"ssl.default = {port}", f"ssl.default = 127.0.0.1:{port}")
        (home / name).write_text(local)
    with run(home):
        yield Site(home, port, authority)


def odd(found: list[Finding]) -> list[Finding]:
    bad = {Verdict.WARN, Verdict.FAIL}
    return [each for each in found if each.verdict in bad and each.check != "clock"]


def test_nats_passes_every_check(tmp_path: Path) -> None:
    with site(tmp_path, nats_server, nats.render) as broker:
        bench = broker.bench()
        assert odd(list(examination.examine(TOPICS, bench.aggregator, bench.device))) == []
        assert not delivers_to_a_spy(broker)
        stranger = replace(bench.device, account="pump-3")
        settings = replace(stranger.settings, tls=Tls(*broker.identity("pump-3")))
        doors = reach.check_connect(replace(stranger, settings=settings))
        assert doors.verdict is Verdict.FAIL  # ours, but not on the list


def delivers_to_a_spy(broker: Site) -> bool:
    """Whether a device gets what is sent to another by what is special to NATS, not to MQTT."""
    topic = TOPICS.into("pump-2")
    with (
        BareClient(broker.port, protocol=V3, identity=broker.identity("pump-2")) as victim,
        BareClient(broker.port, protocol=V3, identity=broker.identity("pump-1")) as spy,
        BareClient(broker.port, protocol=V3, identity=broker.identity(AGGREGATOR)) as sender,
    ):
        victim.subscribe(topic)
        own, others = topic.replace("/", "."), topic.replace("pump-2", "*")
        for wanted in ("$MQTT/sub/#", "$MQTT/#", "#", own, others, "fedbus/1/>"):
            if not spy.gone.is_set():
                spy.subscribe(wanted)
        sender.publish(topic, b"for pump-2")
        victim.wait_for_message(topic, b"for pump-2")
        spy.wait_until_quiet(enough=1, quiet_s=0.3)
        return spy.received != []


@pytest.mark.slow  # half a minute, most of it until RabbitMQ is up
def test_rabbitmq_passes_every_check(tmp_path: Path) -> None:
    """It ends the connection of whoever asks for too much, so that each is asked alone."""
    with site(tmp_path, rabbitmq_server, rabbitmq.render) as broker:
        bench = broker.bench()
        assert odd(list(examination.examine(TOPICS, bench.aggregator, bench.device))) == []


def test_a_right_too_many_is_found_on_nats(tmp_path: Path) -> None:
    def leaky(wanted: Wanted) -> dict[str, str]:
        right = '"fedbus.1.*.dev.pump-1.in"'
        return {
            name: text.replace(right, '"fedbus.1.*.dev.*.in"')
            for name, text in nats.render(wanted).items()
        }

    with site(tmp_path, nats_server, leaky) as broker:
        own, foreign = rights.check_rights(broker.bench())
    assert own.verdict is Verdict.OK
    assert foreign.verdict is Verdict.FAIL
    assert "device reads fedbus/1/doctor-test/dev/doctor-other/in" in foreign.found
