"""The files of a development node, as real nodes write them: token, fingerprint, and the certificate behind it."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from aioquic.quic.configuration import QuicConfiguration

TOKEN: Final = "miner-auth-token"  # noqa: S105 - a file's name
FINGERPRINT: Final = "miner-tls-cert-sha256"
IDENTITY: Final = "miner-tls.pem"
"""Certificate and private key, which stay the same over restarts."""


def prepare(folder: Path, configuration: QuicConfiguration) -> str:
    """Writes what is missing in ``folder``, gives ``configuration`` the certificate; the token."""
    folder.mkdir(parents=True, exist_ok=True)
    token, identity = folder / TOKEN, folder / IDENTITY
    if not token.exists():
        _write_secret(token, secrets.token_hex(32).encode() + b"\n")
    if not identity.exists():
        _write_secret(identity, _self_signed())
    configuration.load_cert_chain(identity)
    fingerprint = configuration.certificate.fingerprint(hashes.SHA256())
    (folder / FINGERPRINT).write_text(fingerprint.hex() + "\n", encoding="ascii")
    return token.read_text(encoding="utf-8").strip()


def _self_signed() -> bytes:
    """A certificate as nodes have them, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
