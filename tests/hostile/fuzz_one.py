#!/usr/bin/env python
"""One target in a process of its own: ``fuzz_one.py LIBFUZZER-OPTIONS``.

The environment names it (``FEDBUS_FUZZ``): libFuzzer starts this file again, by its name and with
options of its own, to choose what is worth keeping.
"""

import os
import sys


def main() -> None:
    """Fuzz; libFuzzer ends the process itself."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 - not every platform has it

    with atheris.instrument_imports(include=["protocol", "device_sdk", "aggregator", "fedbus"]):
        from tests.hostile.targets import TARGETS  # noqa: PLC0415 - instrumented
    atheris.Setup(sys.argv, TARGETS[os.environ["FEDBUS_FUZZ"]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
