"""A certificate authority: serving certificates, client certificates of users, bare keys.

Called by tools/cluster/credentials.py and tests/integration/testbed. The authority's own key is never written.
"""

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
    """Issues certificates that live for so many days, into one directory."""

    def __init__(self, directory: Path, name: str = "conclave-testbed", days: int = 1):
        self._directory = directory
        self._lifetime = datetime.timedelta(days=days)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name, ())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._write("ca", self._build(self._name, self._key).add_extension(basic, critical=True))

    def serving(self, name: str, hosts: Sequence[str], also_client: bool = False) -> KeyPair:
        """A certificate for a server that is reached by these names and addresses; etcd's peers are clients as well."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if also_client else [])]
        builder = self._build(_name(name, ()), key, usages)
        return KeyPair(
            self._write(name, builder.add_extension(alternatives, critical=False)), self._write_key(name, key)
        )

    def client(self, user: str, groups: Sequence[str]) -> KeyPair:
        """A certificate by which Kubernetes knows a user (common name) and its groups (organisations)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._build(_name(user, groups), key, [ExtendedKeyUsageOID.CLIENT_AUTH])
        return KeyPair(self._write(file_name(user), builder), self._write_key(file_name(user), key))

    def bare_key(self, name: str) -> Path:
        """A private key without a certificate, as service-account tokens are signed with."""
        return self._write_key(name, ec.generate_private_key(ec.SECP256R1()))

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, usages: Sequence[x509.ObjectIdentifier] = ()
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + self._lifetime)
        )
        return builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False) if usages else builder

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


def file_name(user: str) -> str:
    """Of a user's files: system:node:node-1 has a name that a shell need not quote."""
    return user.replace(":", "-").replace("/", "-")


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
