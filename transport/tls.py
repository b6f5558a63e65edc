"""TLS as the transport needs it: a context from files, and what a failure means."""

import ssl
from pathlib import Path
from typing import Final

from transport.secret_files import others_may_read
from transport.settings import Tls

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# What OpenSSL calls the broker's last word, and what it says of us.
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a certificate, and we have none (broker.certificate_file)",
    "HANDSHAKE_FAILURE": "it wants a certificate, or another version of TLS",
    "CERTIFICATE_EXPIRED": "our certificate has expired, or one of the clocks is wrong",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
    "UNKNOWN_CA": "our certificate is of an authority that it does not know",
    "BAD_CERTIFICATE": "it takes our certificate for a bad one",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not one of a client",
    "PROTOCOL_VERSION": "it speaks no version of TLS that we take (broker.tls)",
}


def make_context(tls: Tls) -> ssl.SSLContext:
    """Return a client's context. Raises ValueError that names the file and what to do."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_file {tls.ca}: {_spoken(error)}; give certificates in PEM") from None
    context.minimum_version = _VERSIONS[tls.at_least]
    if tls.certificate is not None:
        _add_certificate(context, tls.certificate, tls.key)
    return context


def explain(error: ssl.SSLError) -> str:
    """Return what a failed handshake means, for a log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: we do not trust the broker: {error.verify_message} (broker.ca_file, .host)"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "TLS: the broker hung up; its log says why"
    reason = error.reason or str(error)
    told = next((meaning for word, meaning in _ALERTS.items() if word in reason), None)
    return f"TLS: the broker does not take us: {told}" if told else f"TLS: {reason.lower()}"


def _add_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    if key is not None:
        _check_private(key)
    for name, path in (("certificate_file", certificate), ("key_file", key)):
        if path is not None and not path.is_file():
            raise ValueError(f"{name} {path}: there is no such file")
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"certificate_file {certificate}, key_file {key}: {_spoken(error)}; give a certificate"
            " in PEM and the key that belongs to it"
        ) from None


def _check_private(key: Path) -> None:
    try:
        is_open = others_may_read(key)
    except OSError as error:
        raise ValueError(f"key_file {key}: {error.strerror}") from None
    if is_open:
        raise ValueError(f"key_file {key}: others may read this secret: chmod 600 it")


def _refuse_to_ask() -> str:
    """Without this, OpenSSL would ask the terminal: a service has none."""
    raise ValueError("key_file: is encrypted; use one that is not, of mode 0600")


def _spoken(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or str(error)).lower().replace("_", " ")
