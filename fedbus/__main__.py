"""``fedbus`` and ``python -m fedbus``."""

import sys
from collections.abc import Sequence
from typing import Final

from fedbus.early import INTERRUPTED, leaving_at_once

_EXTRAS: Final = {"typer", "click", "rich", "sqlalchemy"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (``sys.argv`` without ``argv``); return its exit status."""
    try:
        with leaving_at_once():
            from fedbus.app import run  # noqa: PLC0415 - its absence is what we answer for

        return run(argv)  # imports what the command needs
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        sys.stderr.write(
            f"fedbus: {error.name} is missing, as this is the bare install for devices;\n"
            "for the command line: pip install 'fedbus[aggregator]' (devices run fedbus-device)\n"
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
