"""Proof of work qpow-poseidon2: Poseidon2 over the Goldilocks field, width 12, rate 8, S-box x^7.

The permutation is that of "Poseidon2" (Grassi, Khovratovich, Schofnegger, 2023, https://eprint.iacr.org/2023/323);
constants, encoding and padding are those of the Quantus chain.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

P: Final = 2**64 - 2**32 + 1
"""The Goldilocks prime; a field element is an integer 0 .. P - 1."""

WIDTH: Final = 12
RATE: Final = 8

_CONSTANTS: Final = json.loads(resources.files(__package__).joinpath("poseidon2_constants.json").read_bytes())


def _elements(words: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in words)


INTERNAL_DIAGONAL: Final = _elements(_CONSTANTS["internal_diagonal"])
INTERNAL_ROUNDS: Final = _elements(_CONSTANTS["internal_round_constants"])
FIRST_EXTERNAL_ROUNDS: Final = tuple(map(_elements, _CONSTANTS["external_round_constants_initial"]))
LAST_EXTERNAL_ROUNDS: Final = tuple(map(_elements, _CONSTANTS["external_round_constants_terminal"]))


def permute(state: Sequence[int]) -> list[int]:
    """Return the Poseidon2 permutation of 12 integers, any residues mod P. The result is canonical (0 .. P - 1)."""
    state = _external_layer(state)
    for constants in FIRST_EXTERNAL_ROUNDS:
        state = _external_round(state, constants)
    for constant in INTERNAL_ROUNDS:
        state = _internal_round(state, constant)
    for constants in LAST_EXTERNAL_ROUNDS:
        state = _external_round(state, constants)
    return state


def sponge(elements: Sequence[int], squeezes: int) -> bytes:
    """Absorb ``elements``, any residues mod P, and squeeze ``squeezes`` (>= 1) times 32 bytes.

    The message ends with the element 1 and zeros to a full block. A block is added into the first 8 elements of the
    state. A squeeze reads elements 0 .. 3 as 8 bytes little-endian each.
    """
    message = [*elements, 1]
    message += [0] * (-len(message) % RATE)
    state = [0] * WIDTH
    for start in range(0, len(message), RATE):
        for i in range(RATE):
            state[i] += message[start + i]
        state = permute(state)
    output = _squeeze(state)
    for _ in range(squeezes - 1):
        state = permute(state)
        output += _squeeze(state)
    return output


def bytes_to_elements(data: bytes) -> list[int]:
    """Return bytes as field elements of 4 bytes, little-endian. Byte 1 and zeros to a full element mark the end."""
    padded = data + b"\1"
    padded += bytes(-len(padded) % 4)
    return [int.from_bytes(padded[start : start + 4], "little") for start in range(0, len(padded), 4)]


def hash512(header: bytes, nonce: int) -> int:
    """Return the 64-byte hash, as an integer, of the 32-byte ``header`` and the nonce as 64 bytes big-endian."""
    return int.from_bytes(sponge(bytes_to_elements(header + nonce.to_bytes(64)), squeezes=2))


def _external_round(state: Sequence[int], constants: Sequence[int]) -> list[int]:
    return _external_layer([pow(x + constant, 7, P) for x, constant in zip(state, constants, strict=True)])


def _internal_round(state: Sequence[int], constant: int) -> list[int]:
    state = [pow(state[0] + constant, 7, P), *state[1:]]
    total = sum(state)
    return [(total + factor * x) % P for x, factor in zip(state, INTERNAL_DIAGONAL, strict=True)]


def _external_layer(state: Sequence[int]) -> list[int]:
    """Multiply each group of four by the 4x4 matrix, then add to each element the sum of its residue class mod 4."""
    mixed: list[int] = []
    for start in range(0, WIDTH, 4):
        a, b, c, d = state[start : start + 4]
        # Rows (2 3 1 1), (1 2 3 1), (1 1 2 3), (3 1 1 2): all ones, and what is left.
        total = a + b + c + d
        mixed += (total + a + 2 * b, total + b + 2 * c, total + c + 2 * d, total + d + 2 * a)
    sums = [mixed[i] + mixed[i + 4] + mixed[i + 8] for i in range(4)]
    return [(x + sums[i % 4]) % P for i, x in enumerate(mixed)]


def _squeeze(state: Sequence[int]) -> bytes:
    return b"".join(x.to_bytes(8, "little") for x in state[:4])
