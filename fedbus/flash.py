"""``fedbus flash`` and ``fedbus verify``: bring the SDK onto a device, and see it come."""

import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from aggregator.wording import many
from device_sdk import SDK_VERSION
from fedbus.tls_options import CaOption, CertificateOption, KeyOption
from fedbus.toml_text import Values, fill
from fedbus.workplace import CA_CERTIFICATE, DEVICE, DEVICE_CERTIFICATE, DEVICE_KEY, KEYS
from firmware_scripts.bundle import BundleError
from firmware_scripts.flashing import act, flash_plan, rollback_plan
from firmware_scripts.plan import Plan, PlanError, Verdict
from firmware_scripts.target import Ssh, Target, TargetError, open_folder
from firmware_scripts.verify import Expected, last_boot, watcher
from firmware_scripts.verify import verify as wait_for_device
from firmware_scripts.wish import ETC, STATE_DIR, Wish, read_wish
from protocol.errors import ConfigError
from protocol.topics import DEFAULT_PREFIX, Topics
from transport.config import BrokerConfig

_ASK_BROKER_S: Final = 3.0
_MONITOR: Final = "monitor"

RootOption = Annotated[
    Path | None, typer.Option(help="A Linux root file system: a mounted card, a container's.")
]
SshOption = Annotated[str, typer.Option(help="HOST or USER@HOST of a running Linux.")]
SshPortOption = Annotated[int | None, typer.Option(help="Where sshd listens.")]
SshOptionsOption = Annotated[list[str] | None, typer.Option(help="As after `ssh -o`.")]
SshPrefixOption = Annotated[
    str, typer.Option(help="A folder there that stands for its root file system.")
]
SudoOption = Annotated[bool, typer.Option("--sudo", help="Become root there, by sudo -n.")]
ConfigOption = Annotated[Path | None, typer.Option(help="The device's TOML file.")]
PasswordFileOption = Annotated[
    Path | None, typer.Option(help="A file with the device's password alone.")
]
CarryOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The device's folder by `fedbus init` or `fedbus enrol`: settings, certificate and"
        " keys, and its data.npz if that lies there; instead of --config.",
    ),
]
PythonOption = Annotated[
    str, typer.Option(help="An interpreter on the target that has the libraries.")
]
WheelhouseOption = Annotated[
    Path | None, typer.Option(help="Wheels to take along, for a target without network.")
]
SetupNowOption = Annotated[
    bool | None,
    typer.Option(
        "--setup-now/--setup-at-boot",
        help="When the virtual environment is made; over ssh now, else at first boot.",
    ),
]
RollbackOption = Annotated[
    bool, typer.Option("--rollback", help="Switch back to the release before.")
]
ThisMachineOption = Annotated[
    bool, typer.Option("--this-machine", help="Allow --root / on purpose.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it; without: only say what.")]

app = typer.Typer(
    help="Bring the SDK onto devices.", no_args_is_help=True, pretty_exceptions_enable=False
)


def register(app: typer.Typer) -> None:
    """Add ``flash`` and ``verify`` to a command line."""
    app.command("flash")(flash)
    app.command("verify")(verify)


@app.command()
def flash(
    *,
    root: RootOption = None,
    ssh: SshOption = "",
    ssh_port: SshPortOption = None,
    ssh_option: SshOptionsOption = None,
    ssh_prefix: SshPrefixOption = "",
    sudo: SudoOption = False,
    config: ConfigOption = None,
    password_file: PasswordFileOption = None,
    carry: CarryOption = None,
    python: PythonOption = "",
    wheelhouse: WheelhouseOption = None,
    setup_now: SetupNowOption = None,
    rollback: RollbackOption = False,
    this_machine: ThisMachineOption = False,
    yes: YesOption = False,
) -> None:
    """Put SDK, configuration and service onto a device. Without --yes it says what it would do."""
    with _failures():
        if (root is None) == (not ssh):
            raise ConfigError("give either --root DIR or --ssh HOST")
        target: Target = Ssh(
            host=ssh, port=ssh_port, options=tuple(ssh_option or ()), root=ssh_prefix, sudo=sudo
        )
        if root is not None:
            target = open_folder(root, this_machine=this_machine)
        if rollback:
            _carry_out(target, rollback_plan(target), act_now=yes)
            return
        if (config is None) == (carry is None):
            raise ConfigError("give --carry DIR, --config device.toml, or --rollback")
        with _settings(config, carry) as settings:
            wish = read_wish(
                settings,
                password_file=password_file,
                python=python,
                wheelhouse=wheelhouse,
                carried=carry,
            )
        now = not target.root if setup_now is None else setup_now
        plan = flash_plan(target, wish, setup_now=now)
        if not yes or plan.changes_nothing:
            _carry_out(target, plan, act_now=False)
            _say_data(wish)
            return
        boot = _boot_before(wish, password_file, carry)
        _carry_out(target, plan, act_now=True)
        _say_data(wish)
        typer.echo(f"to see it come: {_verify_command(wish, boot, carry)}")


@app.command()
def verify(
    *,
    task: Annotated[str, typer.Option("--task", "-t", help="The device's task.")],
    device: Annotated[str, typer.Option(help="The device's id.")],
    host: Annotated[str, typer.Option(help="The broker's address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The broker's port.")] = 1883,
    prefix: Annotated[str, typer.Option(help="What stands before every topic.")] = DEFAULT_PREFIX,
    username: Annotated[
        str, typer.Option(help="The broker account; `monitor` where a password is given.")
    ] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="A file with the password alone.")
    ] = None,
    ca_file: CaOption = None,
    certificate_file: CertificateOption = None,
    key_file: KeyOption = None,
    sdk_version: Annotated[str, typer.Option(help="The SDK version that it must run.")] = "",
    after_boot: Annotated[
        str, typer.Option(help="Boot id of a birth that does not count, as `flash` names it.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 60.0,
) -> None:
    """Wait until a device is online on the broker. Exit status 0 if it came, else 1."""
    expected = Expected(sdk=sdk_version, after_boot=after_boot)
    with _failures():
        broker = BrokerConfig(
            host=host,
            port=port,
            username=username,
            password_file=str(password_file or ""),
            ca_file=str(ca_file or ""),
            certificate_file=str(certificate_file or ""),
            key_file=str(key_file or ""),
        )
        topics = Topics(prefix, task)
        settings = watcher(broker, username=_MONITOR)
        seen = wait_for_device(settings, topics, device, expected, timeout_s=timeout)
    typer.echo(seen.sentence(device, expected))
    raise typer.Exit(0 if seen.fulfils(expected) else 1)


@contextmanager
def _settings(config: Path | None, carry: Path | None) -> Iterator[Path]:
    """Yield the settings to flash; in a carried folder's, files are named as they lie there."""
    if carry is None:
        yield config or Path()
        return
    try:
        text = (carry / DEVICE).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--carry {carry / DEVICE}: {error.strerror}") from None
    there: Values = {
        "": {"state_dir": STATE_DIR},
        "broker": _tls_files(Path(ETC)),
        "identity": {"keys": f"{ETC}/{KEYS}"},
    }
    with tempfile.TemporaryDirectory(prefix="fedbus-flash-") as folder:
        settings = Path(folder) / DEVICE
        settings.write_text(fill(text, there), encoding="utf-8")
        yield settings


def _tls_files(folder: Path) -> dict[str, str]:
    """Return the settings that name a carried folder's files of TLS."""
    names = {"ca_file": CA_CERTIFICATE, "certificate_file": DEVICE_CERTIFICATE}
    names["key_file"] = DEVICE_KEY
    return {key: str(folder / name) for key, name in names.items()}


def _carry_out(target: Target, plan: Plan, *, act_now: bool) -> None:
    for line in plan.lines:
        typer.echo(f"{line.verdict.value:<8} {line.text}")
    if plan.changes_nothing:
        typer.echo("everything is there already: nothing to do")
    elif not act_now:
        typer.echo("nothing was changed; --yes does it")
    else:
        act(target, plan)
        num_changed = sum(line.verdict is not Verdict.SAME for line in plan.lines)
        typer.echo(f"done: {many(num_changed, 'thing')} new or changed")


def _say_data(wish: Wish) -> None:
    """Say where the device will look for its data, if the flash does not bring it there."""
    if wish.data_file and wish.data_file not in {file.path for file in wish.files()}:
        typer.echo(
            f"its training data is not part of this: it looks for {wish.data_file} there, which"
            " everybody must be able to read (and outside /home)"
        )


def _boot_before(wish: Wish, password_file: Path | None, carry: Path | None) -> str:
    """Return the boot id that the broker knows now, if it is in reach from here."""
    if wish.needs_password() and password_file is None:
        return ""
    settings = wish.settings
    if settings.broker.files_of_tls is not None and carry is None:
        return ""  # its files are the device's
    broker = dataclasses.replace(settings.broker, password_file=str(password_file or ""))
    if carry is not None:
        own = _tls_files(carry)
        broker = dataclasses.replace(
            broker,
            ca_file=own["ca_file"],
            certificate_file=own["certificate_file"],
            key_file=own["key_file"],
        )
    topics = Topics(settings.prefix, settings.task)
    client = watcher(broker, username=settings.device)
    return last_boot(client, topics, settings.device, timeout_s=_ASK_BROKER_S).boot


def _verify_command(wish: Wish, boot: str, carry: Path | None) -> str:
    settings = wish.settings
    words = ["fedbus", "verify", "--host", settings.broker.host, "--port"]
    words += [str(settings.broker.port), "--task", settings.task, "--device", settings.device]
    for key, file in _tls_files(carry).items() if carry else ():
        words += [f"--{key.replace('_', '-')}", file]
    words += ["--sdk-version", SDK_VERSION]
    words += ["--prefix", settings.prefix] if settings.prefix != DEFAULT_PREFIX else []
    words += ["--after-boot", boot] if boot else []
    return shlex.join(words)


@contextmanager
def _failures() -> Iterator[None]:
    """What a person can mend ends in one sentence and status 2."""
    try:
        yield
    except (ConfigError, PlanError, TargetError, BundleError) as error:
        sys.stderr.write(f"fedbus: {error}\n")
        raise typer.Exit(2) from None
