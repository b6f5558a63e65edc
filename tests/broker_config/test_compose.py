"""compose.yaml and its image, as far as they can be judged without containers."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

import broker_config
from broker_config.healthy import is_healthy
from fedbus.__main__ import main
from protocol.errors import ConfigError

HERE: Final = Path(broker_config.__file__).parent
REPOSITORY: Final = HERE.parent
COMPOSE: Final = HERE / "compose.yaml"
SETTINGS: Final = {"FEDBUS_DIR": "fed", "FEDBUS_HOST": "broker.example", "FEDBUS_USER": "1:1"}


def composed() -> dict[str, Any]:
    """The file with its variables filled in."""
    text = re.sub(r"\$\{(\w+):\?.*?\}", lambda found: SETTINGS[found[1]], COMPOSE.read_text())
    assert "${" not in text
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def test_what_is_mounted_is_what_init_made_and_the_operators_keys_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "fed"), "--host", "broker.example"]) == 0
    capsys.readouterr()
    mounts = [
        (service, *volume.split(":"))
        for service, its in composed()["services"].items()
        for volume in its["volumes"]
    ]
    assert {(service, source) for service, source, *_ in mounts} == {
        ("broker", "fed/broker"),
        ("aggregator", "fed/fed.toml"),
        ("aggregator", "fed/aggregator"),
    }
    for _, source, target, *_ in mounts:
        assert (tmp_path / source).exists()
        assert target == f"/{source}"
    fed = tomllib.loads((tmp_path / "fed" / "fed.toml").read_text())
    assert fed["broker"]["host"] == "broker.example"  # an alias of the broker's container
    named = re.findall(
        r'^\w+ = "(aggregator/[^"]+)"', (tmp_path / "fed/fed.toml").read_text(), re.MULTILINE
    )
    assert {"aggregator/state", "aggregator/ca.crt"} <= set(named)


def test_ports_are_those_of_the_broker_and_no_others() -> None:
    services = composed()["services"]
    shipped = re.findall(r"^listener (\d+)$", (HERE / "mosquitto.conf").read_text(), re.MULTILINE)
    published = [port.split(":")[0] for port in services["broker"]["ports"]]
    assert set(published) < set(shipped)  # no websockets, unless asked for
    assert "ports" not in services["aggregator"]


@pytest.mark.parametrize("service", ["broker", "aggregator"])
def test_a_container_may_little_and_comes_back(service: str) -> None:
    its = composed()["services"][service]
    assert its["restart"] == "unless-stopped"
    assert its["read_only"] is True
    assert its["cap_drop"] == ["ALL"]
    assert its["security_opt"] == ["no-new-privileges:true"]
    assert its["user"] == SETTINGS["FEDBUS_USER"]
    assert its["mem_limit"]
    assert not {"privileged", "network_mode", "pid", "environment"} & set(its)


@pytest.mark.parametrize("service", ["broker", "aggregator"])
def test_what_a_container_runs_is_a_command_of_ours(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = composed()["services"][service]["command"]
    assert program == "fedbus"
    assert main([*words, "--help"]) == 0
    usage = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or word in usage


def test_the_image_has_every_package_and_nothing_else() -> None:
    dockerfile = (HERE / "Dockerfile").read_text()
    copied = {line.split()[1] for line in dockerfile.splitlines() if line.startswith("COPY ")}
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = wanted["tool"]["setuptools"]["packages"]["find"]["include"]
    assert copied - {"pyproject.toml"} == {package.removesuffix("*") for package in packages}
    kept = (HERE / "Dockerfile.dockerignore").read_text().splitlines()
    shown = {line.removeprefix("!") for line in kept if line.startswith("!")}
    assert shown == copied | {"README.md", "LICENSE"}


def test_health_needs_a_broker_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mosquitto\.conf"):
        is_healthy(tmp_path)
    assert main(["init", str(tmp_path / "fed")]) == 0
    assert not is_healthy(tmp_path / "fed" / "broker")


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose here")
def test_docker_compose_takes_the_file() -> None:
    told = subprocess.run(
        ["docker-compose", "-f", str(COMPOSE), "config", "--quiet"],
        env={"PATH": "/usr/bin:/bin", **SETTINGS, "FEDBUS_DIR": "./fed"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr.decode()
