"""``python -m device_sdk`` is ``fedbus-device``."""

import sys

from device_sdk.cli import main

sys.exit(main())
