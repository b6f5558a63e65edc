"""Who gets in, and over what: accounts, strangers, TLS, certificates, the clock."""

import ipaddress
import socket
import ssl
import time
import warnings
from dataclasses import replace
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from broker_config.checks.findings import Finding, fail, ok, skip, warn
from broker_config.checks.visitors import CONNECT_S, Side, Visitors, visit
from transport import Tls
from transport.tls import explain, make_context

SOON_DAYS: Final = 30
_DAY_S: Final = 86_400.0
_MODERN: Final = ("TLSv1.2", "TLSv1.3")


def check_connect(side: Side) -> Finding:
    """Return whether this side gets in, and which MQTT it then speaks."""
    check = f"connect-{side.name}"
    where = f"{side.settings.host}:{side.settings.port}"
    with Visitors() as visitors:
        visitor = visitors.admit(visit(side))
    if visitor.accepted is not None:
        return ok(check, f"MQTT {visitor.accepted.protocol} at {where}")
    if visitor.refusal is None:
        return fail(check, f"{where} does not answer", _CHECK_ADDRESS)
    if visitor.refusal.permanent:
        return fail(
            check,
            f"{where} refuses us: {visitor.refusal.reason}",
            "check the account (broker.username, broker.password_file, or the certificate), and "
            "that the broker has read its accounts again since it was made",
        )
    return fail(check, f"{where}: {visitor.refusal.reason}", _CHECK_ADDRESS)


_CHECK_ADDRESS: Final = (
    "check that the broker runs (`fedbus broker up`), broker.host and broker.port, and that one "
    "side does not speak TLS to a listener that does not, or the other way round"
)


def check_strangers(side: Side) -> list[Finding]:
    """Return whether nobody gets in without an account, nor with a wrong password."""
    anonymous = replace(side.settings, username=None, password=None, tls=_without_key(side))
    findings = [_stranger("strangers", replace(side, settings=anonymous), "without an account")]
    if side.settings.password is not None:
        guess = replace(side.settings, password=f"{side.settings.password}x"[1:])
        findings.append(
            _stranger("wrong-password", replace(side, settings=guess), "with a wrong password")
        )
    return findings


def _without_key(side: Side) -> Tls | None:
    tls = side.settings.tls
    return None if tls is None else Tls(ca=tls.ca)


def _stranger(check: str, side: Side, how: str) -> Finding:
    with Visitors() as visitors:
        visitor = visitors.admit(visit(side))
    if visitor.accepted is None:
        if not _listens(side):
            return skip(check, "nobody listens there, so nobody was turned away")
        return ok(check, f"nobody gets in {how}")
    return fail(
        check,
        f"anybody gets in {how}",
        "mosquitto: allow_anonymous false with a password_file, or require_certificate true with "
        "use_identity_as_username true",
    )


def _listens(side: Side) -> bool:
    address = (side.settings.host, side.settings.port)
    try:
        with socket.create_connection(address, timeout=CONNECT_S):
            return True
    except OSError:
        return False


def check_tls(side: Side) -> list[Finding]:
    """Return how the connection is protected, how long certificates last, and the clock."""
    settings = side.settings
    if settings.tls is None:
        return [_plain(settings.host)]
    try:
        version, certificate = _handshake(settings.host, settings.port, settings.tls)
    except ssl.SSLError as error:
        return [fail("tls", explain(error), _CHECK_TLS)]
    except ConnectionRefusedError as error:
        return [fail("tls", f"nobody listens there: {error}", _CHECK_ADDRESS)]
    except (OSError, ValueError) as error:
        return [fail("tls", f"no TLS connection: {error}", _CHECK_TLS)]
    findings = [
        ok("tls", version)
        if version in _MODERN
        else fail("tls", f"{version} is outdated", "mosquitto: tls_version tlsv1.2")
    ]
    findings.append(_old_versions(settings.host, settings.port))
    findings.append(check_lifetime("certificate-broker", certificate, time.time()))
    return findings


_CHECK_TLS: Final = (
    "check broker.ca_file (it must be the authority of the broker's certificate), that the "
    "certificate names the host as it stands in broker.host, and this machine's clock"
)


def _plain(host: str) -> Finding:
    if _is_loopback(host):
        return ok("tls", "none, and none needed: the broker is on this machine")
    return fail(
        "tls",
        "none: passwords and all that is said can be read and changed on the way",
        "`fedbus init` makes certificates and a listener with TLS; set broker.ca_file",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _handshake(host: str, port: int, tls: Tls) -> tuple[str, x509.Certificate]:
    context = make_context(tls)
    with (
        socket.create_connection((host, port), timeout=CONNECT_S) as wire,
        context.wrap_socket(wire, server_hostname=host) as shaken,
    ):
        shown = shaken.getpeercert(binary_form=True)
        if shown is None:
            raise ValueError("the broker shows no certificate")
        return shaken.version() or "no TLS", x509.load_der_x509_certificate(shown)


def _old_versions(host: str, port: int) -> Finding:
    """Offer TLS 1.0 and 1.1 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said over it; it is the offer that counts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    except (ssl.SSLError, ValueError):
        return skip("old-tls", "this machine cannot offer TLS 1.1, so it cannot be tried")
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_S) as wire,
            context.wrap_socket(wire) as shaken,
        ):
            return fail(
                "old-tls",
                f"the broker takes {shaken.version()}, which is broken",
                "mosquitto: tls_version tlsv1.2",
            )
    except OSError:
        return ok("old-tls", "nothing older than TLS 1.2 is taken")


def check_own_certificate(side: Side) -> Finding | None:
    """Return how long the certificate lasts that this side shows; None if it shows none."""
    if side.settings.tls is None or side.settings.tls.certificate is None:
        return None
    check, path = f"certificate-{side.name}", side.settings.tls.certificate
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return fail(check, f"{path}: {error}", "make it again: `fedbus enrol`")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [each.value for each in names] != [side.account]:
        return fail(
            check,
            f"{path} is for {certificate.subject.rfc4514_string()}, not for {side.account}",
            "the broker takes the common name for the account: enrol under the id that is in use",
        )
    return check_lifetime(check, certificate, time.time())


def check_lifetime(check: str, certificate: x509.Certificate, now: float) -> Finding:
    """Return how long a certificate lasts, and whether this clock lies within its time.

    ``now``: seconds since 1970, UTC.
    """
    name = certificate.subject.rfc4514_string()
    begins, ends = (
        moment.timestamp()
        for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    )
    if now < begins:
        return fail(
            check,
            f"{name} is not valid yet: it begins {(begins - now) / _DAY_S:.1f} days from now",
            "set this machine's clock (systemd-timesyncd or chrony); boards without a battery "
            "start in the past",
        )
    days = (ends - now) / _DAY_S
    if days <= 0:
        return fail(check, f"{name} ended {-days:.1f} days ago", "renew it: `fedbus ca renew`")
    text = f"{name} lasts {days:.0f} days"
    if days < SOON_DAYS:
        return warn(check, text, "renew it: `fedbus ca renew`")
    return ok(check, text)
