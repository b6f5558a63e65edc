"""``python -m broker_config.healthy DIR``: status 0 if the broker of a folder answers over TLS.

For health checks of containers, which start it every few seconds.
"""

import argparse
import sys
from pathlib import Path

from broker_config.files import BrokerFiles
from broker_config.mosquitto import listening
from broker_config.probe import speaks_tls
from protocol.errors import ConfigError

_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104 - what a listener may say, not where we listen # nosec B104


def is_healthy(directory: Path) -> bool:
    """Whether the broker answers as the one whose certificate lies here. Raises ConfigError."""
    files = BrokerFiles(directory)
    try:
        host, port = listening(files.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{files.config}: {error.strerror}") from None
    return speaks_tls("127.0.0.1" if host in _EVERYWHERE else host, port, files.authority)


def main() -> int:
    """Return 0 for a broker that answers, 1 for one that does not."""
    parser = argparse.ArgumentParser(prog="broker_config.healthy", description=__doc__)
    parser.add_argument("directory", type=Path)
    try:
        return int(not is_healthy(parser.parse_args().directory))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
