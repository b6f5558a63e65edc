"""No secret is in the repository: no private key, no access token, none of our own key files.

Test vectors have keys in them, which protect nothing; they are the only ones that may.
"""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
#: Keys that are published on purpose.
VECTORS: Final = ("tests/vectors/", "tests/corpus/")
#: What a secret looks like, wherever it stands.
PATTERNS: Final = {
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40,}",
    "an access key of a cloud": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of a forge": rb"\b(?:gh[opsu]_[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20})\b",
    "a token of a chat": rb"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a token of a package index": rb"\bpypi-[A-Za-z0-9_-]{50,}",
    "a web token": rb"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": rb"[a-z]+://[^/\s:@{}$<]+:[^/\s:@{}$<]{8,}@[a-z0-9.-]+\.[a-z]{2,}",
    "one of our keys": rb"\A\s*[0-9a-f]{64}\s*\Z",
    "a device's keys": rb'"(?:identity|epochs)"\s*:\s*(?:\{\s*"\d+"\s*:\s*)?"[0-9a-f]{64}"',
}
_ENDINGS: Final = (".key", ".pem", ".p12", ".pfx", ".sqlite", ".kdbx")


def found_in(data: bytes) -> list[str]:
    """Return which kinds of secrets are in some bytes."""
    return [what for what, pattern in PATTERNS.items() if re.search(pattern, data)]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.decode().split("\0") if name]


def test_no_tracked_file_has_a_secret_in_it() -> None:
    for name in tracked():
        path = ROOT / name
        if name.startswith(VECTORS) or not path.is_file():
            continue
        assert not name.endswith(_ENDINGS), name
        assert found_in(path.read_bytes()) == [], name


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a private key", "-----BEGIN EC PRIVATE KEY-----\n" + "MHcCAQEEIA" * 9),
        ("an access key of a cloud", "key = AKIA" + "ABCDEFGH12345678"),
        ("a token of a forge", "ghp" + "_" + "a1" * 18),
        ("a token of a chat", "xoxb" + "-1234567890-abc"),
        ("a token of a package index", "pypi" + "-" + "Ag" * 30),
        ("a web token", "eyJ" + "h" * 20 + ".eyJ" + "p" * 20 + "." + "s" * 20),
        ("a password in an address", "postgresql://fed:" + "correcthorse@db.example.org/fed"),
        ("one of our keys", "0f" * 32 + "\n"),
        ("a device's keys", '{"identity": "' + "0f" * 32 + '"}'),
    ],
)
def test_each_kind_is_noticed(what: str, text: str) -> None:
    assert what in found_in(text.encode())
