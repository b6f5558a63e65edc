"""A site's mosquitto behind the generated bridge: two real brokers, and mutual TLS between them."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from broker_config.accounts import AGGREGATOR
from broker_config.authority import Authority
from broker_config.checks import delivery, rights
from broker_config.checks.findings import Verdict
from broker_config.checks.visitors import Bench, Side
from broker_config.files import BrokerFiles, write_broker, write_secure_broker
from broker_config.mosquitto import Ports
from broker_config.others.bridge import render_bridge, render_gateway_rules
from broker_config.others.wanted import Wanted
from broker_config.private_files import replace as write
from broker_config.running import free_port, running_secure_broker
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics
from tests.broker_config.bare_client import BareClient, Identity
from tests.support.mosquitto import Mosquitto, require_mosquitto
from transport import BrokerSettings, Tls

pytestmark = pytest.mark.broker

TOPICS: Final = Topics(DEFAULT_PREFIX, "t")
DEVICES: Final = ("pump-1", "pump-2")


@dataclass
class Plant:
    """The folders of both brokers, and where they listen."""

    folder: Path
    port: int
    site_port: int

    @property
    def middle(self) -> Path:
        return self.folder / "middle"

    @property
    def site(self) -> Path:
        return self.folder / "site"

    def aggregator(self) -> Identity:
        """What the aggregator shows to the broker in the middle."""
        crt, key = (self.folder / f"aggregator.{end}" for end in ("crt", "key"))
        return (BrokerFiles(self.middle).authority, crt, key)

    def device(self, name: str) -> BareClient:
        """A device at the site."""
        secret = BrokerFiles(self.site).secret(name).read_text().strip()
        return BareClient(self.site_port, login=(name, secret))


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Both brokers' files as their operator would lay them out."""
    require_mosquitto()
    made = Plant(tmp_path, free_port(), free_port())
    authority = Authority.create(tmp_path / "ca", "test")
    wanted = Wanted(devices=DEVICES, gateway="plant-1", host="127.0.0.1", port=made.port)
    files = write_secure_broker(
        made.middle, authority, ["127.0.0.1"], ports=Ports(made.port, 0, 0), listen="127.0.0.1"
    )
    files.acl.write_text(files.acl.read_text() + "\n" + render_gateway_rules(wanted))
    site = write_broker(made.site, DEVICES, port=made.site_port)
    bridge = render_bridge(wanted).replace("restart_timeout 5 120", "restart_timeout 1 1")
    site.config.write_text(site.config.read_text() + "\n" + bridge)
    for name, folder in (("plant-1", made.site), (AGGREGATOR, tmp_path)):
        issued = authority.issue_client(name)
        write(folder / f"{name}.crt", issued.certificate)
        write(folder / f"{name}.key", issued.key)
    shutil.copy(files.authority, made.site / "ca.crt")
    return made


@pytest.fixture
def site(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    """The site's broker, which looks for its certificates where it is started."""
    monkeypatch.chdir(plant.site)
    config = BrokerFiles(plant.site).config.read_text()
    with Mosquitto(plant.site, config, port=plant.site_port) as running:
        yield running


def bench(plant: Plant) -> Bench:
    """The aggregator in the middle, a device at the site."""
    ca, crt, key = plant.aggregator()
    middle = BrokerSettings(port=plant.port, client_id="x", tls=Tls(ca, crt, key))
    secret = BrokerFiles(plant.site).secret("pump-1").read_text().strip()
    away = BrokerSettings(port=plant.site_port, client_id="x", username="pump-1", password=secret)
    return Bench(TOPICS, Side("aggregator", AGGREGATOR, middle), Side("device", "pump-1", away))


@pytest.mark.usefixtures("site")
def test_across_the_bridge_the_same_is_open_and_the_same_is_shut(plant: Plant) -> None:
    with running_secure_broker(plant.middle):
        both = bench(plant)
        found = [
            *rights.check_rights(both),
            delivery.check_packet_size(both),
            delivery.check_retained(both),
            delivery.check_away(both),
            delivery.check_queue(both),
        ]
    assert [each for each in found if each.verdict is not Verdict.OK] == []


@pytest.mark.usefixtures("site")
def test_what_a_device_says_while_the_line_is_down_arrives_once_it_is_up(plant: Plant) -> None:
    """In order, once each, also to an aggregator that was away meanwhile."""
    topic = TOPICS.update(0, "pump-1")
    said = [(topic, str(number).encode()) for number in range(50)]
    with running_secure_broker(plant.middle), aggregator(plant) as before:
        before.subscribe(topic)
        with plant.device("pump-1") as device:
            device.publish(topic, b"first")
            before.wait_for_message(topic, b"first")
    with plant.device("pump-1") as device:
        device.publish_all(said)
    with running_secure_broker(plant.middle), aggregator(plant) as after:
        after.wait_for_message(*said[-1])
        assert after.received == said


def aggregator(plant: Plant) -> BareClient:
    return BareClient(plant.port, identity=plant.aggregator(), client_id="kept", keeps_session=True)


@pytest.mark.usefixtures("site")
def test_shares_between_neighbours_arrive_once(plant: Plant) -> None:
    """They match what goes up and what comes down: no echo over the middle."""
    topic, end = TOPICS.share("pump-2", "pump-1"), TOPICS.into("pump-2")
    with ExitStack() as stack:
        stack.enter_context(running_secure_broker(plant.middle))
        devices = [stack.enter_context(plant.device(name)) for name in DEVICES]
        middle = stack.enter_context(BareClient(plant.port, identity=plant.aggregator()))
        for filter_ in (topic, end):
            devices[1].subscribe(filter_)
        wait_for_the_line(middle, devices[0])
        devices[0].publish(topic, b"share")
        wait_for_the_line(middle, devices[0])
        middle.publish(end, b"end")
        devices[1].wait_for_message(end, b"end")
        devices[1].wait_until_quiet(enough=3, quiet_s=0.3)
        assert devices[1].received == [(topic, b"share"), (end, b"end")]


def wait_for_the_line(middle: BareClient, device: BareClient) -> None:
    """Return when what the device had said before is in the middle."""
    topic, mark = TOPICS.out("pump-1"), str(len(middle.received)).encode()
    middle.subscribe(topic)
    device.publish(topic, mark)
    middle.wait_for_message(topic, mark)


def test_no_account_of_a_service_can_be_a_gateway() -> None:
    with pytest.raises(ConfigError, match="somebody else has this account"):
        Wanted(devices=("a",), gateway=AGGREGATOR)
