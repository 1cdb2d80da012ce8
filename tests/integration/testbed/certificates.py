"""A certificate authority of the test bed: the API server's serving certificate and client certificates of users."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class KeyPair(NamedTuple):
    """Paths of two PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates that live as long as a test run (a day)."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("conclave-testbed", ())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._write("ca", self._build(self._name, self._key).add_extension(basic, critical=True))

    def serving(self, name: str, hosts: Sequence[str]) -> KeyPair:
        """A certificate for a server that is reached by these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = self._build(_name(name, ()), key, ExtendedKeyUsageOID.SERVER_AUTH)
        return KeyPair(
            self._write(name, builder.add_extension(alternatives, critical=False)), self._write_key(name, key)
        )

    def client(self, user: str, groups: Sequence[str]) -> KeyPair:
        """A certificate by which Kubernetes knows a user (common name) and its groups (organisations)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._build(_name(user, groups), key, ExtendedKeyUsageOID.CLIENT_AUTH)
        file = user.replace(":", "-").replace("/", "-")
        return KeyPair(self._write(file, builder), self._write_key(file, key))

    def bare_key(self, name: str) -> Path:
        """A private key without a certificate, as service-account tokens are signed with."""
        return self._write_key(name, ec.generate_private_key(ec.SECP256R1()))

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, usage: x509.ObjectIdentifier | None = None
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        return builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False) if usage else builder

    def _write(self, name: str, builder: x509.CertificateBuilder) -> Path:
        path = self._directory / f"{name}.crt"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> Path:
        path = self._directory / f"{name}.key"
        path.touch(mode=0o600)
        encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        path.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, no_password))
        return path


def _name(common_name: str, organisations: Sequence[str]) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        + [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation) for organisation in organisations]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
