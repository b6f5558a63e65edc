"""Which brokers there are configurations for, and what to do with the files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

from nacl.utils import random

from broker_config.accounts import account_names
from broker_config.files import PASSWORD_BYTES
from broker_config.mosquitto import SALT_BYTES
from broker_config.others import aws, bridge, dynsec, emqx, hivemq, nats, rabbitmq
from broker_config.others.wanted import Wanted
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Recipe:
    """One broker: ``files`` makes text by file name, ``next_step`` says where it goes."""

    files: Callable[[Wanted], Mapping[str, str]]
    next_step: str


def _dynsec(wanted: Wanted) -> dict[str, str]:
    password = random(PASSWORD_BYTES).hex()
    shipped = resources.files("broker_config").joinpath("mosquitto.conf").read_text("utf-8")
    return {
        "mosquitto.conf": dynsec.render_config(shipped),
        "dynamic-security.json": dynsec.render_state(wanted, password, random(SALT_BYTES)),
        "admin.password": f"{password}\n",
        **{f"add/{device}.json": dynsec.add_device(wanted, device) for device in wanted.devices},
        **{f"remove/{device}.json": dynsec.remove_device(device) for device in wanted.devices},
    }


def _bridge(wanted: Wanted) -> dict[str, str]:
    if not wanted.devices:
        raise ConfigError("name the devices of the site: --device ID, once for each")
    return {
        "bridge.conf": bridge.render_bridge(wanted),
        "rules-in-the-middle.acl": bridge.render_gateway_rules(wanted),
    }


def _hivemq(wanted: Wanted) -> dict[str, str]:
    passwords = {name: random(PASSWORD_BYTES).hex() for name in account_names(wanted.devices)}
    secrets = {f"secrets/{name}": f"{password}\n" for name, password in passwords.items()}
    return {**hivemq.render(wanted, passwords, random(32)), **secrets}


Name = Literal["emqx", "hivemq", "rabbitmq", "nats", "aws", "dynsec", "bridge"]

RECIPES: Final[Mapping[Name, Recipe]] = {
    "emqx": Recipe(emqx.render, "fedbus.hocon behind base.hocon, fedbus.acl into EMQX's etc"),
    "hivemq": Recipe(
        _hivemq,
        "config.xml into HiveMQ's conf, the other XML files into the conf of its File RBAC "
        "extension; secrets/<account> is a client's password_file",
    ),
    "rabbitmq": Recipe(rabbitmq.render, "all three files into /etc/rabbitmq"),
    "nats": Recipe(nats.render, "nats-server -c nats-server.conf, from the certificates' folder"),
    "aws": Recipe(aws.render, "fill in REGION and ACCOUNT; both policies of its role to each"),
    "dynsec": Recipe(
        _dynsec,
        "mosquitto.conf and dynamic-security.json into the broker's folder (mode 0600); "
        f"publish add/ and remove/ files to {dynsec.CONTROL} as {dynsec.ADMIN}",
    ),
    "bridge": Recipe(
        _bridge,
        "bridge.conf behind the site's mosquitto.conf, the rules behind the acl in the middle",
    ),
}
"""Every broker that `fedbus broker config` knows, by its name."""
