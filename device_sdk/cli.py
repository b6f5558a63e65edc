"""``fedbus-device``: what runs on the device. Standard library only beside the SDK.

A verb imports what it needs, so that help and mistakes come at once on a slow board, too.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from device_sdk import SDK_VERSION
from device_sdk.conditions import MEANING, describe
from device_sdk.config import load_config
from device_sdk.power import LOAD_S, Board
from device_sdk.storage import StorageError, alone
from protocol.errors import ConfigError
from transport.secret_files import new_passphrase, open_secret_file, replace_secret_file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        if arguments.verb == "redeem":
            return _redeem(arguments.token, arguments.dir, arguments.deadline)
        if arguments.verb == "lock":
            return _lock(arguments.config)
        if arguments.verb == "check":
            return _check(arguments.config)
        return _run(arguments.config)
    except (ConfigError, StorageError) as error:
        sys.stderr.write(f"fedbus-device: {error}\n")
        return 2


def _check(path: Path) -> int:
    from device_sdk.belongings import own_keys  # noqa: PLC0415 - see above

    config = load_config(path)
    own_keys(config)
    config.broker.check_files()
    if config.data.file and not config.trainer and not Path(config.data.file).exists():
        raise ConfigError(f"data.file {config.data.file}: there is no such file; put x and y there")
    board = Board()
    time.sleep(2 * LOAD_S)
    now = board.read()
    reasons = [f"    {word}: {MEANING[word]}" for word in config.conditions.reasons(now)]
    lines = [
        f"{path}: device {config.device}, task {config.task}",
        *(f"  {name}: {value}" for name, value in describe(now).items()),
        f"  would train now: {'no' if reasons else 'yes'}",
        *reasons,
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _redeem(token: Path, folder: Path, deadline_s: float) -> int:
    from device_sdk.redeem import redeem  # noqa: PLC0415 - see above

    settings = redeem(token, folder, deadline_s)
    sys.stdout.write(f"redeemed; from now on: fedbus-device run --config {settings}\n")
    return 0


def _lock(path: Path) -> int:
    from device_sdk.belongings import own_keys  # noqa: PLC0415 - see above

    config = load_config(path)
    own_keys(config)
    file, passphrase_file = Path(config.identity.keys), config.identity.passphrase_file
    text, passphrase = open_secret_file(file, passphrase_file)
    if passphrase:
        raise ConfigError(f"{file}: it is locked already")
    try:
        replace_secret_file(file, text, new_passphrase(passphrase_file, file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    sys.stdout.write(f"{file} is locked\n")
    return 0


def _run(path: Path) -> int:
    from device_sdk.device import Device  # noqa: PLC0415 - see above

    with alone(Path(load_config(path).state_dir)):
        device = Device.from_config(path)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: device.stop())
        device.run()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedbus-device", description="Take part in a federation, over MQTT."
    )
    parser.add_argument("--version", action="version", version=f"fedbus-device {SDK_VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("run", "take part until stopped"),
        ("check", "check a configuration file, and say whether it would train now"),
        ("lock", "lock the keys file with a passphrase"),
    ):
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument("--config", "-c", type=Path, required=True, help="the device's TOML file")
        sub.add_argument("-v", "--verbose", action="store_true", help="say more")
    text = "make keys of one's own, and have them certified with a one-time token"
    sub = verbs.add_parser("redeem", help=text, description=text)
    sub.add_argument("--token", type=Path, required=True, help="the file from fedbus enrol token")
    sub.add_argument("--dir", type=Path, default=Path(), help="where keys and settings go")
    sub.add_argument("--deadline", type=float, default=300.0, help="seconds to wait for an answer")
    sub.add_argument("-v", "--verbose", action="store_true", help="say more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
