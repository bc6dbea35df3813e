"""Proof of work qpow-sha3: distance between hashes of powers in a ring that the header chooses.

    m = SHA2-256(header),  n = SHA3-512(header), re-rolled until it is odd, above m, coprime with m and composite
    y(nonce) = m ^ min(header + nonce, 2^512 - 1) mod n
    distance = SHA3-512(y(0)) XOR SHA3-512(y(nonce))

Integers are hashed as 64 bytes; everything is big-endian.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha3_512, sha256
from math import gcd
from typing import Final

from quantus_miner.model import MAX

PRIME_TEST_BASES: Final = 32
_CACHED_HEADERS: Final = 64


@lru_cache(_CACHED_HEADERS)
def modulus(header: bytes) -> tuple[int, int]:
    """Return base m (256 bits) and modulus n (512 bits) of the 32-byte ``header``."""
    m = int.from_bytes(sha256(header).digest())
    n = int.from_bytes(sha3_512(header).digest())
    while n % 2 == 0 or n <= m or gcd(m, n) != 1 or is_prime(n):
        n = _sha3(n)
    return m, n


def is_prime(n: int) -> bool:
    """Test 0 <= n <= 2^512 - 1 by Miller-Rabin with the 32 bases that the chain derives from ``n``.

    Base k is 2 + SHA3-512(n || k) mod (n - 4), both as 64 bytes.
    """
    if n < 4 or n % 2 == 0:
        return n in (2, 3)
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(n, _base(n, k), odd, twos) for k in range(PRIME_TEST_BASES))


def distance(header: bytes, nonce: int) -> int:
    """Return the distance (0 .. 2^512 - 1) of a nonce (0 .. 2^512 - 1) from nonce 0 under the 32-byte ``header``."""
    return _origin(header) ^ _sha3(_y(header, nonce))


@lru_cache(_CACHED_HEADERS)
def _origin(header: bytes) -> int:
    return _sha3(_y(header, 0))


def _y(header: bytes, nonce: int) -> int:
    m, n = modulus(header)
    return pow(m, min(int.from_bytes(header) + nonce, MAX), n)


def _base(n: int, k: int) -> int:
    return 2 + int.from_bytes(sha3_512(n.to_bytes(64) + k.to_bytes(64)).digest()) % (n - 4)


def _passes(n: int, base: int, odd: int, twos: int) -> bool:
    """Return True if ``base`` does not prove that n = 1 + odd * 2^twos is composite."""
    x = pow(base, odd, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


def _sha3(value: int) -> int:
    return int.from_bytes(sha3_512(value.to_bytes(64)).digest())
