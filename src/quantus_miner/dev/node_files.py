"""The files of a development node, as real nodes write them: token, fingerprint and certificate."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from quantus_miner.errors import MinerError
from quantus_miner.host.certificate import self_signed
from quantus_miner.wire.messages import parse_token

if TYPE_CHECKING:
    from pathlib import Path

    from aioquic.quic.configuration import QuicConfiguration

TOKEN: Final = "miner-auth-token"  # noqa: S105 - a file's name
FINGERPRINT: Final = "miner-tls-cert-sha256"
IDENTITY: Final = "miner-tls.pem"
"""File of the certificate and private key, which are kept over restarts."""


def prepare(folder: Path, configuration: QuicConfiguration) -> str:
    """Write the missing files in ``folder``, load the certificate into ``configuration``, and return the token.

    Raises MinerError if a file cannot be written or has unusable content.
    """
    token, identity = folder / TOKEN, folder / IDENTITY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not token.exists():
            _write_secret(token, secrets.token_hex(32).encode() + b"\n")
        if not identity.exists():
            _write_secret(identity, self_signed().pem)
        _load_identity(identity, configuration)
        fingerprint = configuration.certificate.fingerprint(hashes.SHA256())
        (folder / FINGERPRINT).write_text(fingerprint.hex() + "\n", encoding="ascii")
        return parse_token(token.read_text(encoding="utf-8"))
    except OSError as error:
        raise MinerError(f"--base-path: {error.filename or folder}: {error.strerror}") from None
    except ValueError as error:
        raise MinerError(f"--base-path: {token} is not a token; allowed: {error}") from None


def _load_identity(path: Path, configuration: QuicConfiguration) -> None:
    try:
        configuration.load_cert_chain(path)
        certificate, key = configuration.certificate, configuration.private_key
        usable = key is not None and certificate.public_key() == key.public_key()
    # IndexError: no certificate; TypeError: a key that is locked with a password.
    except (ValueError, IndexError, TypeError, UnsupportedAlgorithm):
        usable = False
    if not usable:
        raise MinerError(
            f"--base-path: {path} does not hold a certificate and its private key; remove it, and new ones are made"
        )


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
