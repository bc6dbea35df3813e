"""The rigs that a hub knows, and the hub's certificate, in a folder of the state folder."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.x509 import load_pem_x509_certificate

from quantus_miner.errors import MinerError
from quantus_miner.host import files
from quantus_miner.host.certificate import self_signed
from quantus_miner.hub.json_file import JsonFile
from quantus_miner.wire.fleet import HubUrl, parse_rig_name

if TYPE_CHECKING:
    from pathlib import Path

    from quantus_miner.wire.nats_url import Address

RIGS: Final = "rigs.json"
"""Names of the rigs and their public keys."""
KEY: Final = "hub.nk"
"""The hub's private key for the servers of a cluster."""
CERTIFICATE: Final = "hub.pem"
"""The certificate and its private key. Rigs know its SHA-256, so it stays."""
MAX_RIGS: Final = 100_000
MAX_BYTES: Final = 20_000_000
MISSING: Final = "rigs need the extra hub: pip install 'quantus-miner[hub]'"


class Roster:
    """The rigs that may connect. ``state_dir``: the hub's."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "hub"
        self._file: JsonFile[dict[str, str]] = JsonFile(
            self.folder / RIGS, dict[str, str], MAX_BYTES, "invite the rigs again", _check
        )

    def load(self) -> dict[str, str]:
        """Return the public keys by name. Raises MinerError if the file cannot be read."""
        return self._file.load() or {}

    def stamp(self) -> int:
        """Return a number that changes with the file, 0 if there is none."""
        return self._file.stamp()

    def invite(self, name: str, servers: tuple[Address, ...], pin: bytes | None) -> HubUrl:
        """Give a rig a new key, which replaces an earlier one, and return what it connects with. Raises MinerError.

        ``pin``: SHA-256 of the servers' certificate; None: the rig's system trusts it.
        """
        rigs = self.load()
        if len(rigs) >= MAX_RIGS and name not in rigs:
            raise MinerError(f"the hub knows {MAX_RIGS:,} rigs already; revoke one first")
        seed, key = new_key()
        self._file.write(rigs | {name: key})
        return HubUrl(name, seed, pin, servers)

    def revoke(self, name: str) -> None:
        """Forget a rig. Raises MinerError if there is none of that name."""
        rigs = self.load()
        if rigs.pop(name, None) is None:
            raise MinerError(f"there is no rig {name}; rigs: {', '.join(rigs) or 'none'}")
        self._file.write(rigs)

    @property
    def has_key(self) -> bool:
        """Return True if the hub has a key for a cluster."""
        return (self.folder / KEY).exists()

    def hub_key(self) -> tuple[str, str]:
        """Return the hub's private key and its public one, made at the first call. Raises MinerError."""
        path = self.folder / KEY
        try:
            if not path.exists():
                files.replace(path, new_key()[0].encode(), 0o600)
            seed = files.read(path, 64).decode("ascii").strip()
            return seed, public_key(seed)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a key"
            raise MinerError(f"cannot use {path}: {reason}") from None

    def certificate(self) -> Path:
        """Return the file with the hub's certificate, made at the first call. Raises MinerError."""
        path = self.folder / CERTIFICATE
        try:
            if not path.exists():
                files.replace(path, self_signed().pem, 0o600)
        except OSError as error:
            raise MinerError(f"cannot write {path}: {error.strerror}") from None
        return path

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of the hub's certificate. Raises MinerError."""
        path = self.certificate()
        try:
            return load_pem_x509_certificate(files.read(path, 65_536)).fingerprint(hashes.SHA256())
        except (OSError, ValueError, ssl.SSLError):
            raise MinerError(f"cannot use {path}; remove it, and invite the rigs again") from None


def _check(rigs: dict[str, str]) -> None:
    for name, key in rigs.items():
        parse_rig_name(name)
        if not (len(key) == 56 and key.isalnum() and key.isascii()):
            raise ValueError(f"the key of {name} is not valid")


def new_key() -> tuple[str, str]:
    """Return a new private key and its public key, as NATS writes them. Raises MinerError without the extra ``hub``."""
    try:
        import nkeys
    except ImportError:
        raise MinerError(MISSING) from None
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    return seed, public_key(seed)


def public_key(seed: str) -> str:
    """Return the public key of a private one. Raises ValueError, or MinerError without the extra ``hub``."""
    try:
        import nkeys
    except ImportError:
        raise MinerError(MISSING) from None
    try:
        return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())
    except Exception as error:  # of this library, whatever it is
        raise ValueError(str(error)) from None
