"""The operator's X.509 authority: what brokers know devices and services by.

A folder that belongs on no machine of the federation::

    ca.key  ca.crt  crl.pem             the authority, and what it has taken back
    issued/<name>/<serial>.crt          every certificate that it has given

Keys are ECDSA P-256, which every broker takes. Certificates of devices and services are for
clients only, the broker's for a server only: no device can stand in for the broker.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from nacl.utils import random

from broker_config.private_files import PUBLIC, create, replace
from protocol.errors import ConfigError
from protocol.topics import check_id
from transport.secret_files import read_secret_file

CA_DAYS: Final = 20 * 365
LEAF_DAYS: Final = 2 * 365
#: A board without a clock chip starts at its image's date: certificates are older than they are.
BACKDATED: Final = timedelta(days=3 * 365)
#: Lists must not come from the future, for no broker would let anybody in; clocks differ.
_LIST_BACKDATED: Final = timedelta(days=1)
_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_BYTES: Final = 48
_SERIAL_BYTES: Final = 19


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority in its folder. ``certificate`` is what everybody trusts."""

    directory: Path
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, directory: Path, name: str, now: datetime | None = None) -> Self:
        """Make a new authority called ``name``. Raises ConfigError if the folder has one."""
        key = _draw_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        moment = now or datetime.now(UTC)
        public = key.public_key()
        builder = (
            _builder(subject, subject, public, moment, moment + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        made = cls(directory, builder.sign(key, SHA256()), key)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            create(directory / "ca.key", _private_pem(key))
            create(directory / "ca.crt", _pem(made.certificate), PUBLIC)
            made._list(())
        except FileExistsError as error:
            raise ConfigError(f"{error.filename} exists, and is never overwritten") from None
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None
        return made

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read an authority, whose key must be of mode 0600. Raises ConfigError with the file."""
        path = directory / "ca.key"
        if not path.exists():
            raise ConfigError(f"{path}: there is none; `fedbus ca init` makes one")
        text = read_secret_file(path)
        try:
            key = serialization.load_pem_private_key(text.encode(), None)
        except (ValueError, TypeError):
            raise ConfigError(f"{path}: no private key in PEM") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{path}: expected an ECDSA key")
        return cls(directory, read_certificate(directory / "ca.crt"), key)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, for everybody."""
        return _pem(self.certificate)

    @property
    def list_pem(self) -> bytes:
        """The list of what was taken back, for brokers. Raises ConfigError."""
        return _read(self.directory / "crl.pem", "`fedbus ca init` makes one")

    def issue_client(
        self, name: str, *, days: int = LEAF_DAYS, now: datetime | None = None
    ) -> Issued:
        """Give a device or a service a new key and a certificate for it.

        Raises ConfigError for a name that no account can have.
        """
        key = _draw_key()
        return Issued(self.certify(name, key.public_key(), days=days, now=now), _private_pem(key))

    def certify(
        self,
        name: str,
        key: CertificatePublicKeyTypes,
        *,
        days: int = LEAF_DAYS,
        now: datetime | None = None,
    ) -> bytes:
        """Return a client's certificate in PEM for a public key that it has made itself."""
        return self._issue(name, key, ExtendedKeyUsageOID.CLIENT_AUTH, days=days, now=now)

    def issue_server(
        self,
        name: str,
        hosts: Iterable[str],
        *,
        days: int = LEAF_DAYS,
        now: datetime | None = None,
    ) -> Issued:
        """Give a broker a new key and a certificate for ``hosts``: names or addresses."""
        key = _draw_key()
        usage, names = ExtendedKeyUsageOID.SERVER_AUTH, tuple(map(_host, hosts))
        certificate = self._issue(name, key.public_key(), usage, hosts=names, days=days, now=now)
        return Issued(certificate, _private_pem(key))

    def issued(self, name: str) -> list[x509.Certificate]:
        """Return every certificate that ``name`` has been given, the last to end last."""
        found = map(read_certificate, (self.directory / "issued" / name).glob("*.crt"))
        return sorted(found, key=lambda each: each.not_valid_after_utc)

    def names(self) -> list[str]:
        """Return everybody who has been given a certificate."""
        return sorted(path.name for path in (self.directory / "issued").glob("*"))

    def revoked(self) -> set[int]:
        """Return the serial numbers of all certificates that were taken back."""
        return {entry.serial_number for entry in self._entries()}

    def revoke(self, name: str) -> int:
        """Take back every certificate of ``name``; return how many were not taken back before."""
        before = self.revoked()
        fresh = [each for each in self.issued(name) if each.serial_number not in before]
        if fresh:
            moment = datetime.now(UTC)
            added = (_revoked(each.serial_number, moment) for each in fresh)
            self._list([*self._entries(), *added])
        return len(fresh)

    def _issue(
        self,
        name: str,
        key: CertificatePublicKeyTypes,
        usage: x509.ObjectIdentifier,
        *,
        hosts: tuple[x509.GeneralName, ...] = (),
        days: int,
        now: datetime | None,
    ) -> bytes:
        check_id(name, "name")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        until = (now or datetime.now(UTC)) + timedelta(days=days)
        end = min(until, self.certificate.not_valid_after_utc)
        issuer = self.certificate
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(subject, issuer.subject, key, now or datetime.now(UTC), end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
            )
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        made = builder.sign(self._key, SHA256())
        self._keep(name, made)
        return _pem(made)

    def _keep(self, name: str, made: x509.Certificate) -> None:
        """Without its serial number a certificate could not be taken back: kept before it goes."""
        folder = self.directory / "issued" / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            create(folder / f"{made.serial_number:x}.crt", _pem(made), PUBLIC)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from None

    def _list(self, entries: Iterable[x509.RevokedCertificate]) -> None:
        """Write a list that brokers prefer to every one before: they take the newest they have.

        It ends with the authority. A list that ended earlier would lock everybody out on the day
        that nobody is there to renew it.
        """
        before = self._present()
        moment = datetime.now(UTC) - _LIST_BACKDATED
        if before is not None:
            moment = max(moment, before.last_update_utc + timedelta(seconds=1))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(moment)
            .next_update(self.certificate.not_valid_after_utc)
        )
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        text = builder.sign(self._key, SHA256()).public_bytes(serialization.Encoding.PEM)
        replace(self.directory / "crl.pem", text, PUBLIC)

    def _present(self) -> x509.CertificateRevocationList | None:
        path = self.directory / "crl.pem"
        if not path.exists():
            return None
        try:
            return x509.load_pem_x509_crl(path.read_bytes())
        except ValueError:
            raise ConfigError(f"{path}: no revocation list in PEM") from None

    def _entries(self) -> Iterator[x509.RevokedCertificate]:
        return iter(self._present() or ())


def read_certificate(path: Path) -> x509.Certificate:
    """Read one certificate in PEM. Raises ConfigError that names the file."""
    text = _read(path, "`fedbus ca init` makes one")
    try:
        return x509.load_pem_x509_certificate(text)
    except ValueError:
        raise ConfigError(f"{path}: no certificate in PEM") from None


def days_left(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Return how many days a certificate is still valid; below 0 it has ended."""
    left = certificate.not_valid_after_utc - (now or datetime.now(UTC))
    return left / timedelta(days=1)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    begin: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(random(_SERIAL_BYTES), "big") | 1)
        .not_valid_before(begin - BACKDATED)
        .not_valid_after(end)
    )


def _draw_key() -> ec.EllipticCurvePrivateKey:
    """Draw a key with libsodium's entropy; 16 bytes more than needed leave no visible bias."""
    scalar = int.from_bytes(random(_SCALAR_BYTES), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(scalar, _CURVE)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(value: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(value))
    except ValueError:
        pass
    try:
        return x509.DNSName(value)
    except ValueError:
        raise ConfigError(f"host {value!r}: an address, or a name in ASCII") from None


def _revoked(serial: int, moment: datetime) -> x509.RevokedCertificate:
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {hint}") from None
