"""The authority: what its certificates are good for, and that its lists lock nobody out."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker_config.authority import LEAF_DAYS, Authority, days_left, read_certificate
from protocol.errors import ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "test")


def loaded(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def usage(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_clients_cannot_serve_and_servers_cannot_connect(authority: Authority) -> None:
    client = loaded(authority.issue_client("a").certificate)
    server = loaded(authority.issue_server("broker", ["b.example", "::1"]).certificate)
    assert usage(client) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert usage(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for each in (client, server):
        basic = each.extensions.get_extension_for_class(x509.BasicConstraints)
        assert basic.critical
        assert not basic.value.ca
    assert client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "a"


def test_openssl_agrees_with_chain_purpose_and_list(authority: Authority, tmp_path: Path) -> None:
    good, gone = authority.issue_client("good"), authority.issue_client("gone")
    (tmp_path / "good.crt").write_bytes(good.certificate)
    (tmp_path / "gone.crt").write_bytes(gone.certificate)
    authority.revoke("gone")

    def verdict(name: str, purpose: str) -> str:
        folder = authority.directory
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", purpose]
        command += ["-CAfile", str(folder / "ca.crt"), "-CRLfile", str(folder / "crl.pem")]
        asked = subprocess.run([*command, str(tmp_path / name)], capture_output=True, check=False)
        return (asked.stdout + asked.stderr).decode()

    assert "good.crt: OK" in verdict("good.crt", "sslclient")
    assert "unsuitable certificate purpose" in verdict("good.crt", "sslserver")
    assert "certificate revoked" in verdict("gone.crt", "sslclient")


def test_certificates_are_valid_where_clocks_are_late_and_end_with_the_authority(
    authority: Authority,
) -> None:
    now = datetime.now(UTC)
    made = loaded(authority.issue_client("a").certificate)
    assert made.not_valid_before_utc < now - timedelta(days=1000)
    assert LEAF_DAYS - 1 < days_left(made) <= LEAF_DAYS
    endless = loaded(authority.issue_client("b", days=100_000).certificate)
    assert endless.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_every_list_is_newer_than_the_one_before_and_none_is_from_the_future(
    authority: Authority,
) -> None:
    dates = []
    for number in range(4):
        authority.issue_client(f"d-{number}")
        assert authority.revoke(f"d-{number}") == 1
        assert authority.revoke(f"d-{number}") == 0
        made = x509.load_pem_x509_crl(authority.list_pem)
        dates.append(made.last_update_utc)
        assert len(list(made)) == number + 1
        assert made.next_update_utc == authority.certificate.not_valid_after_utc
    assert dates == sorted(set(dates))
    assert dates[-1] < datetime.now(UTC)


def test_what_is_opened_again_is_what_was_made(authority: Authority) -> None:
    again = Authority.open(authority.directory)
    assert again.certificate == authority.certificate
    serials = {loaded(again.issue_client("a").certificate).serial_number for _ in range(3)}
    assert {each.serial_number for each in authority.issued("a")} == serials
    assert authority.names() == ["a"]


def test_its_key_is_its_owners_alone_and_is_never_overwritten(authority: Authority) -> None:
    key = authority.directory / "ca.key"
    before = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "key" not in repr(authority.issue_client("a")).replace("issue", "")
    with pytest.raises(ConfigError, match=r"ca\.key exists"):
        Authority.create(authority.directory, "another")
    assert key.read_bytes() == before


@pytest.mark.parametrize("name", ["ca.key", "ca.crt", "crl.pem"])
def test_a_damaged_file_is_named(authority: Authority, name: str) -> None:
    (authority.directory / name).write_text("no PEM")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        Authority.open(authority.directory).revoked()
    (authority.directory / name).unlink()
    with pytest.raises(ConfigError, match="ca init"):
        _ = Authority.open(authority.directory).list_pem


def test_a_key_that_others_may_read_signs_nothing(authority: Authority) -> None:
    key = authority.directory / "ca.key"
    key.chmod(0o644)
    with pytest.raises(ConfigError, match=r"ca\.key: others may read it: chmod 600"):
        Authority.open(authority.directory)
    key.chmod(0o600)
    assert Authority.open(authority.directory).names() == []


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_text("no PEM")
    with pytest.raises(ConfigError, match=r"a\.crt: no certificate in PEM"):
        read_certificate(tmp_path / "a.crt")


def test_hosts_that_cannot_be_certified_are_named(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="'bröker'"):
        authority.issue_server("broker", ["bröker"])
