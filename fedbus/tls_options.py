"""The options by which commands that only read get in where the broker wants TLS."""

from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import ConfigError
from transport.settings import Tls

CaOption = Annotated[
    Path | None,
    typer.Option("--ca-file", help="Whom to trust, in PEM; with it the connection has TLS."),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate-file", help="Who we are, in PEM.")
]
KeyOption = Annotated[
    Path | None, typer.Option("--key-file", help="The key that belongs to the certificate.")
]


def tls_of(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """Return what the options ask for; None: no TLS. Raises ConfigError for half a pair."""
    if (certificate is None) != (key is None):
        raise ConfigError("--certificate-file and --key-file: one needs the other")
    if ca is None and certificate is None:
        return None
    return Tls(ca, certificate, key)
