"""The files of a development node, as real nodes write them: token, fingerprint, and the certificate behind it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes

from quantus_miner.dev.certificate import self_signed

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
        _write_secret(identity, self_signed().pem)
    configuration.load_cert_chain(identity)
    fingerprint = configuration.certificate.fingerprint(hashes.SHA256())
    (folder / FINGERPRINT).write_text(fingerprint.hex() + "\n", encoding="ascii")
    return token.read_text(encoding="utf-8").strip()


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
