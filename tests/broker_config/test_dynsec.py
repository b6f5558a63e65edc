"""mosquitto with the generated dynamic-security file: the same rights, changed while it runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR
from broker_config.authority import Authority
from broker_config.checks import examination, rights
from broker_config.checks.findings import Verdict
from broker_config.checks.visitors import Bench, Side
from broker_config.files import BrokerFiles, write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.others import dynsec
from broker_config.others.wanted import Wanted
from broker_config.private_files import replace as write
from broker_config.running import free_port, running_secure_broker
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.broker_config.bare_client import DEADLINE_S, BareClient
from tests.support.mosquitto import require_mosquitto
from transport import BrokerSettings, Tls

pytestmark = pytest.mark.broker

TOPICS: Final = Topics(DEFAULT_PREFIX, "t")
WANTED: Final = Wanted(devices=("pump-1",))
PASSWORD: Final = "the admin's"  # noqa: S105 - a test's


@dataclass
class Site:
    """A running broker, its authority, and where clients keep what they show."""

    authority: Authority
    folder: Path
    ports: Ports

    def files(self, account: str) -> tuple[Path, Path, Path]:
        issued = self.authority.issue_client(account)
        certificate, key = self.folder / f"{account}.crt", self.folder / f"{account}.key"
        write(certificate, issued.certificate)
        write(key, issued.key)
        return BrokerFiles(self.folder / "broker").authority, certificate, key

    def client(self, account: str) -> BareClient:
        return BareClient(self.ports.tls, identity=self.files(account))

    def admin(self) -> BareClient:
        ca = BrokerFiles(self.folder / "broker").authority
        return BareClient(
            self.ports.password, identity=(ca, None, None), login=(dynsec.ADMIN, PASSWORD)
        )

    def bench(self, device: str) -> Bench:
        aggregator, member = (
            BrokerSettings(port=self.ports.tls, client_id="x", tls=Tls(*self.files(account)))
            for account in (AGGREGATOR, device)
        )
        return Bench(
            TOPICS, Side("aggregator", AGGREGATOR, aggregator), Side("device", device, member)
        )


@contextmanager
def running(folder: Path) -> Iterator[Site]:
    require_mosquitto()
    authority = Authority.create(folder / "ca", "test")
    ports = Ports(free_port(), free_port(), 0)
    files = write_secure_broker(
        folder / "broker", authority, ["127.0.0.1"], ports=ports, listen="127.0.0.1"
    )
    files.config.write_text(dynsec.render_config(files.config.read_text()))
    state = dynsec.render_state(WANTED, PASSWORD, bytes(12))
    (folder / "broker" / "dynamic-security.json").write_text(state)
    with running_secure_broker(folder / "broker"):
        yield Site(authority, folder, ports)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("dynsec")) as made:
        yield made


def order(admin: BareClient, commands: str) -> None:
    """Have the plugin do something, and wait for its answer."""
    answers = f"{dynsec.CONTROL}/response"
    admin.subscribe(answers)
    before = len(admin.received)
    admin.publish(dynsec.CONTROL, commands.encode())
    admin.wait(lambda: len(admin.received) > before, "the plugin's answer")
    said = json.loads(admin.received[-1][1])
    assert [each for each in said["responses"] if "error" in each] == []


def test_the_generated_rules_pass_every_check(site: Site) -> None:
    bench = site.bench("pump-1")
    found = list(examination.examine(TOPICS, bench.aggregator, bench.device))
    odd = [each for each in found if each.verdict in {Verdict.WARN, Verdict.FAIL}]
    assert [each for each in odd if each.check != "clock"] == []


def test_a_device_that_is_added_while_the_broker_runs_has_its_rights(site: Site) -> None:
    bench = site.bench("pump-2")
    assert not can_speak(site, "pump-2")
    with site.admin() as admin:
        order(admin, dynsec.add_device(WANTED, "pump-2"))
    after = rights.check_rights(bench)
    assert [each.verdict for each in after] == [Verdict.OK, Verdict.OK]


def test_a_removed_device_is_thrown_out_and_has_no_right_until_added_again(tmp_path: Path) -> None:
    with running(tmp_path) as site, site.admin() as admin:
        with site.client("pump-1") as device:
            order(admin, dynsec.remove_device("pump-1"))
            assert device.gone.wait(DEADLINE_S)
        assert not can_speak(site, "pump-1")
        order(admin, dynsec.add_device(WANTED, "pump-1"))
        assert can_speak(site, "pump-1")


def test_to_disable_a_device_is_not_enough(tmp_path: Path) -> None:
    """Why a device is removed: when this fails, a mosquitto is out that asks the plugin."""
    disable = json.dumps({"commands": [{"command": "disableClient", "username": "pump-1"}]})
    with running(tmp_path) as site, site.admin() as admin:
        order(admin, disable)
        assert can_speak(site, "pump-1")


def can_speak(site: Site, device: str) -> bool:
    """Whether what a device publishes arrives at the aggregator."""
    topic, end = TOPICS.out(device), TOPICS.plan()
    with site.client(AGGREGATOR) as aggregator:
        aggregator.subscribe(topic)
        aggregator.subscribe(end)
        with site.client(device) as suspect:
            if not suspect.refused:
                suspect.publish(topic, b"here")
        aggregator.publish(end, b"end")
        aggregator.wait_for_message(end, b"end")
        return (topic, b"here") in aggregator.received


def test_only_the_admin_gives_orders(site: Site) -> None:
    for account in (AGGREGATOR, "pump-1"):
        with site.client(account) as client:
            assert client.publish(dynsec.CONTROL, dynsec.remove_device("pump-1").encode()) != 0
    with site.client("pump-1") as device:
        assert not device.refused
