"""Flashing through a real sshd on loopback: the same plan, the same result, nothing left behind."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker_config.running import free_port
from firmware_scripts.flashing import act, flash_plan
from firmware_scripts.target import Folder, Ssh, TargetError
from firmware_scripts.wish import PASSWORD
from tests.firmware_scripts.workbench import (
    CONFIG_TEXT,
    PYTHON,
    SECRET,
    command,
    current,
    flash,
    make_root,
    small_wish,
    snapshot,
    write_config,
)

pytestmark = pytest.mark.broker
_PRIVILEGE_FOLDER = Path("/run/sshd")


@dataclass(frozen=True)
class Sshd:
    port: int
    folder: Path
    host_key: str

    def options(self, *, known: str | None = None) -> list[str]:
        """What a user's ~/.ssh would say; ``known`` is the host key that they trust."""
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {known or self.host_key}\n")
        return [
            f"IdentityFile={self.folder}/user",
            f"UserKnownHostsFile={known_hosts}",
            "IdentitiesOnly=yes",
            "GlobalKnownHostsFile=/dev/null",
            "BatchMode=yes",
        ]

    def target(self, root: Path, *, known: str | None = None) -> Ssh:
        return Ssh(
            host=f"{getpass.getuser()}@127.0.0.1",
            port=self.port,
            options=tuple(self.options(known=known)),
            root=str(root),
        )


def _make_key(path: Path) -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, timeout=30)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("sshd is missing, and CI=true promises it")
        pytest.skip("sshd is not installed")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    host_key = _make_key(folder / "host")
    (folder / "authorized_keys").write_text(_make_key(folder / "user") + "\n")
    if os.geteuid() == 0:
        _PRIVILEGE_FOLDER.mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
        )
    try:
        _await_listening(folder / "log", process)
        yield Sshd(port, folder, host_key)
    finally:
        process.terminate()
        process.wait()


def _await_listening(log: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 10
    while "Server listening" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)


def test_dry_act_again_and_back(sshd: Sshd, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    target = sshd.target(root)
    before = snapshot(root)
    first = small_wish(tmp_path, "one")
    plan = flash_plan(target, first, setup_now=False)
    assert snapshot(root) == before
    act(target, plan)
    one = current(root)
    assert flash_plan(target, first, setup_now=False).changes_nothing
    flash(target, small_wish(tmp_path, "two"))
    assert current(root) != one
    options = [word for each in sshd.options() for word in ("--ssh-option", each)]
    where = ["--ssh", target.host, "--ssh-port", sshd.port, "--ssh-prefix", root, *options]
    status, said = command(*map(str, ["flash", *where, "--rollback", "--yes"]))
    assert status == 0, said
    assert current(root) == one


def test_it_ends_as_flashing_the_mounted_root_does(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    far, near = make_root(tmp_path / "far"), make_root(tmp_path / "near")
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    config = write_config(tmp_path, f'{CONFIG_TEXT}password_file = "{PASSWORD}"\n')
    what = ["--config", config, "--password-file", secret, "--python", PYTHON, "--yes"]
    options = [word for each in sshd.options() for word in ("--ssh-option", each)]
    where = ["--ssh", sshd.target(far).host, "--ssh-port", sshd.port, "--ssh-prefix", far]
    status, said = command(*map(str, ["flash", *where, *options, *what]))
    assert status == 0, said
    status, said_near = command(*map(str, ["flash", "--root", near, *what]))
    assert snapshot(far) == snapshot(near)
    assert said == said_near
    assert SECRET not in said + (sshd.folder / "log").read_text()


def test_links_there_do_not_lead_out_of_the_prefix(sshd: Sshd, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "opt").symlink_to(outside)
    flash(sshd.target(root), small_wish(tmp_path, "one"))
    assert list(outside.iterdir()) == []


def test_another_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = snapshot(root)
    other = _make_key(sshd.folder / "other")
    with pytest.raises(TargetError, match="verification failed"):
        flash(sshd.target(root, known=other), small_wish(tmp_path, "one"))
    assert snapshot(root) == before


def test_an_unknown_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    target = sshd.target(make_root(tmp_path))
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(TargetError, match="verification failed"):
        flash(target, small_wish(tmp_path, "one"))


def test_an_interpreter_without_the_libraries_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    """On the machine itself (no prefix) the given interpreter is tried; this one fails."""
    target = sshd.target(Path())
    bare = tmp_path / "python3"
    bare.write_text("#!/bin/sh\necho No module named numpy >&2\nexit 1\n")
    bare.chmod(0o755)
    options = [word for each in target.options for word in ("--ssh-option", each)]
    where = ["--ssh", target.host, "--ssh-port", str(sshd.port), *options]
    status, said = command("flash", *where, "--config", write_config(tmp_path), "--python", bare)
    assert status == 2
    assert "lacks what the SDK needs" in said


def test_a_host_that_looks_like_an_option_is_none(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(TargetError, match="ssh"):
        flash(Ssh(host=f"-oProxyCommand=touch {marker}"), small_wish(tmp_path, "one"))
    assert not marker.exists()


def test_the_mounted_and_the_remote_target_run_the_same_script(tmp_path: Path) -> None:
    wish = small_wish(tmp_path, "one")
    plan = flash_plan(Folder(str(make_root(tmp_path))), wish, setup_now=False)
    assert plan.script[0] == "receive"
    assert SECRET not in "\n".join(plan.script)
