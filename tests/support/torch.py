"""PyTorch, where it is installed; CI promises that it is."""

import os

import pytest


def require_torch() -> None:
    """Skip the module's tests without PyTorch; where CI promises it, let them fail."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("torch")
