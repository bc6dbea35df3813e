"""Self-signed certificates, for a hub and for development servers."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quantus_miner.errors import MinerError

NAME: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Certificate:
    """``pem``: certificate and private key, in this order. ``fingerprint``: SHA-256 of the certificate's DER form."""

    pem: bytes
    fingerprint: bytes

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a TLS server with this certificate. Raises MinerError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # OpenSSL reads keys only from files.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "certificate.pem"
                path.write_bytes(self.pem)
                context.load_cert_chain(path)
        except OSError as error:
            raise MinerError(
                f"cannot write a temporary file: {error.strerror}; set TMPDIR to a folder that can be written"
            ) from None
        return context


def self_signed() -> Certificate:
    """Return a new certificate for localhost, with its own key, valid for a hundred years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fingerprint = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    return Certificate(certificate.public_bytes(serialization.Encoding.PEM) + private, fingerprint)
