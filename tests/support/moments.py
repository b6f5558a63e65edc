"""Random moments to be cruel at."""

import random
import sys


def seeded() -> random.Random:
    """Return a source of moments whose seed a failing run shows."""
    seed = random.SystemRandom().getrandbits(32)
    sys.stdout.write(f"seed {seed}\n")
    return random.Random(seed)  # noqa: S311 -- moments, no secrets
