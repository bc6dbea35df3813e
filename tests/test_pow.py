"""The reference against the golden vectors, and the error contract of the block parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantus_miner.model import MAX, NonceRange, Pow, achieved_difficulty, target_from_difficulty
from quantus_miner.pow import evaluate, is_valid, poseidon2, sha3
from quantus_miner.pow.block import Header, SealedBlock

from .conftest import VECTORS, vectors

LONGEST_SEARCH = 300
"""Nonces; of longer ranges only the winners are checked."""

HEADER = bytes(range(32))
SEAL = "05706f775f0101"


def cases(name: str, part: str = "cases") -> list[Any]:
    return [pytest.param(case, id=case["label"]) for case in vectors(name)[part]]


def hex512(value: int) -> str:
    return f"{value:0128x}"


# qpow-poseidon2


@pytest.mark.parametrize("case", cases("qpow_poseidon2_permutation"))
def test_permutation(case: dict[str, Any]) -> None:
    out = poseidon2.permute([int(x, 16) for x in case["state_in"]])
    assert [f"{x:016x}" for x in out] == case["state_out"]


@pytest.mark.parametrize("case", cases("qpow_poseidon2_hash"))
def test_poseidon2_hash(case: dict[str, Any]) -> None:
    value = evaluate(Pow.POSEIDON2, bytes.fromhex(case["header_hex"]), int(case["nonce_hex"], 16))
    assert hex512(value) == case["hash_hex"]


def accepted(case: dict[str, Any]) -> int:
    """The target that a case stands for; -1 where nothing is valid."""
    if case["difficulty"] is None:
        return int(case["target_hex"], 16) - 1
    difficulty = int(case["difficulty"])
    if difficulty == 0:
        return -1
    target = target_from_difficulty(difficulty)
    assert hex512(target + 1) == case["target_hex"]
    return target


@pytest.mark.parametrize("case", cases("qpow_poseidon2_validity", "comparison_only"))
def test_poseidon2_comparison(case: dict[str, Any]) -> None:
    assert (int(case["hash_hex"], 16) <= accepted(case)) is case["valid"]


@pytest.mark.parametrize("case", cases("qpow_poseidon2_validity", "real_nonces"))
def test_poseidon2_validity(case: dict[str, Any]) -> None:
    header, nonce = bytes.fromhex(case["header_hex"]), int(case["nonce_hex"], 16)
    assert hex512(evaluate(Pow.POSEIDON2, header, nonce)) == case["hash_hex"]
    assert is_valid(Pow.POSEIDON2, header, nonce, accepted(case)) is case["valid"]


def test_bytes_end_with_a_marker() -> None:
    assert poseidon2.bytes_to_elements(b"") == [1]
    assert poseidon2.bytes_to_elements(b"\2\0") == [2 + (1 << 16)]
    assert poseidon2.bytes_to_elements(b"\2\0\0\xff") == [0xFF000002, 1]


# qpow-sha3


@pytest.mark.parametrize("case", cases("qpow_sha3_distance"))
def test_sha3_distance(case: dict[str, Any]) -> None:
    header, nonce = bytes.fromhex(case["header_hex"]), int(case["nonce_hex"], 16)
    m, n = sha3.modulus(header)
    assert (hex512(m), hex512(n)) == (case["m_hex"], case["n_hex"])
    value = evaluate(Pow.SHA3, header, nonce)
    assert hex512(value) == case["distance_hex"]
    assert is_valid(Pow.SHA3, header, nonce, value) is case["valid_at_threshold_equal_distance"]
    assert not is_valid(Pow.SHA3, header, nonce, value - 1)
    if case["exponent_saturated"]:
        assert value == evaluate(Pow.SHA3, header, MAX)


def test_sha3_vectors_re_roll_the_modulus_for_every_reason() -> None:
    reasons = {reason for case in vectors("qpow_sha3_distance")["cases"] for reason in case["n_rerolls"]}
    assert {"even", "not coprime", "prime"} <= reasons


def test_is_prime() -> None:
    numbers = vectors("qpow_sha3_is_prime")
    assert [n for n in map(int, numbers["primes"]) if not sha3.is_prime(n)] == []
    assert [n for n in map(int, numbers["composites"]) if sha3.is_prime(n)] == []


def test_is_prime_agrees_with_trial_division() -> None:
    small = [n for n in range(300) if n > 1 and all(n % d for d in range(2, n))]
    assert [n for n in range(300) if sha3.is_prime(n)] == small


# Searches, zero nonce, bad arguments


def check_search(pow_: Pow, case: dict[str, Any], target: int, first: str | None, winners: int) -> None:
    header = bytes.fromhex(case["header_hex"])
    searched = NonceRange(int(case["nonce_start"], 16), int(case["nonce_end"], 16))
    listed = [nonce for nonce in (int(text, 16) for text in case["winning_nonces"]) if nonce]
    if searched.size <= LONGEST_SEARCH:
        found = [nonce for nonce in range(searched.start, searched.end + 1) if is_valid(pow_, header, nonce, target)]
        assert found[:64] == listed[:64]
        assert len(found) == winners
    else:
        assert all(is_valid(pow_, header, nonce, target) for nonce in listed)
    assert (hex512(listed[0]) if listed else None) == first


@pytest.mark.parametrize("case", cases("qpow_poseidon2_search"))
def test_poseidon2_search(case: dict[str, Any]) -> None:
    target = target_from_difficulty(int(case["difficulty"]))
    check_search(Pow.POSEIDON2, case, target, case["chain_first_nonce"], case["chain_winners"])


@pytest.mark.parametrize("case", cases("qpow_sha3_search"))
def test_sha3_search(case: dict[str, Any]) -> None:
    check_search(Pow.SHA3, case, int(case["distance_threshold"]), case["first_nonce"], case["winners"])


@pytest.mark.parametrize("pow_", Pow)
def test_zero_nonce_is_never_valid(pow_: Pow) -> None:
    assert not is_valid(pow_, HEADER, 0, MAX)
    assert is_valid(pow_, HEADER, 1, MAX)


@pytest.mark.parametrize("pow_", Pow)
@pytest.mark.parametrize(
    ("header", "nonce", "message"),
    [
        (HEADER[:31], 1, "a header must have 32 bytes, got 31"),
        (HEADER + b"\0", 0, "a header must have 32 bytes, got 33"),
        (HEADER, -1, "a nonce must be from 0 to"),
        (HEADER, MAX + 1, "a nonce must be from 0 to"),
    ],
)
def test_bad_arguments(pow_: Pow, header: bytes, nonce: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(pow_, header, nonce)
    with pytest.raises(ValueError, match=message):
        is_valid(pow_, header, nonce, MAX)


# Blocks


@pytest.fixture(name="document")
def real_block() -> dict[str, Any]:
    document: dict[str, Any] = vectors("real_block")
    return document


def parse(document: object) -> SealedBlock:
    return SealedBlock.parse(json.dumps(document))


def test_real_block(document: dict[str, Any]) -> None:
    block = parse(document)
    assert block.mining_hash.hex() == document["mining_hash"]
    assert hex512(block.nonce) == document["nonce"]
    difficulty = int(document["achieved_difficulty"])
    assert achieved_difficulty(evaluate(Pow.POSEIDON2, block.mining_hash, block.nonce)) == difficulty
    assert is_valid(Pow.POSEIDON2, block.mining_hash, block.nonce, target_from_difficulty(difficulty - 1))


def test_header_alone_is_the_same_block(document: dict[str, Any]) -> None:
    block = parse(document)
    assert parse(document["header"]) == block
    assert SealedBlock.parse((VECTORS / "real_block.json").read_bytes()) == block


def test_header_from_its_fields(document: dict[str, Any]) -> None:
    header = Header(
        parent_hash=bytes.fromhex(document["header"]["parentHash"]),
        number=1,
        state_root=bytes.fromhex(document["header"]["stateRoot"]),
        extrinsics_root=bytes.fromhex(document["header"]["extrinsicsRoot"]),
        zk_tree_root=bytes.fromhex(document["header"]["zkTreeRoot"]),
        digest_logs=(bytes.fromhex(document["header"]["digest_logs"][0]),),
    )
    assert len(header.hash_elements()) == 45
    assert header.mining_hash().hex() == document["mining_hash"]


@pytest.mark.parametrize("logs", [(), (b"\6" * 109,), (b"\x08",) * 63])
def test_largest_and_smallest_digests(logs: tuple[bytes, ...]) -> None:
    header = Header(HEADER, 2**32 - 1, HEADER, HEADER, HEADER, logs)
    assert len(header.hash_elements()) == 45
    sealed = {
        "parentHash": HEADER.hex(),
        "number": 2**32 - 1,
        "stateRoot": HEADER.hex(),
        "extrinsicsRoot": HEADER.hex(),
        "zkTreeRoot": HEADER.hex(),
        "digest_logs": [*(log.hex() for log in logs), SEAL + hex512(7)],
    }
    assert parse(sealed) == SealedBlock(header, 7)


MALFORMED: dict[str, tuple[tuple[str, ...], object, str]] = {
    "parent hash a number": (("header", "parentHash"), 1, "parentHash must be a string of hex"),
    "parent hash short": (("header", "parentHash"), "00" * 31, "parentHash must have 32 bytes, got 31"),
    "state root with 0x": (("header", "stateRoot"), "0x" + "00" * 31, "stateRoot must have 32 bytes, got 31"),
    "state root odd": (("header", "stateRoot"), "0" * 63, "stateRoot must be"),
    "root with white space": (("header", "extrinsicsRoot"), "00" * 31 + "  00", "extrinsicsRoot must be"),
    "root ends in a line feed": (("header", "extrinsicsRoot"), "0" * 63 + "\n", "extrinsicsRoot must be"),
    "root of other digits": (("header", "zkTreeRoot"), "\N{ARABIC-INDIC DIGIT ONE}" * 64, "zkTreeRoot must be"),
    "number below": (("header", "number"), -1, "number must be a whole number from 0 to 4294967295"),
    "number above": (("header", "number"), 2**32, "number must be a whole number"),
    "number huge": (("header", "number"), 10**4000, "number must be a whole number"),
    "number a float": (("header", "number"), 1.0, "number must be a whole number"),
    "number infinite": (("header", "number"), float("inf"), "number must be a whole number"),
    "number a bool": (("header", "number"), True, "number must be a whole number"),
    "number a word": (("header", "number"), "one", "number must be a whole number"),
    "logs an object": (("header", "digest_logs"), {}, "digest_logs must be a list"),
    "log a number": (("header", "digest_logs"), [5], r"digest_logs\[0\] must be a string of hex"),
    "log empty": (("header", "digest_logs"), ["", SEAL + hex512(1)], "digest_logs has an empty log"),
    "no logs": (("header", "digest_logs"), [], "the digest has 0 seals; a sealed block must have exactly one"),
    "two seals": (("header", "digest_logs"), [SEAL + hex512(1)] * 2, "the digest has 2 seals"),
    "seal not last": (("header", "digest_logs"), [SEAL + hex512(1), "08"], "the seal must be the last log"),
    "seal of another engine": (
        ("header", "digest_logs"),
        ["0561757261" + "0101" + hex512(1)],
        "another consensus engine",
    ),
    "seal of one byte": (("header", "digest_logs"), ["05"], "another consensus engine; allowed: 'pow_'"),
    "seal of 32 bytes": (
        ("header", "digest_logs"),
        ["05706f775f80" + "00" * 32],
        "the seal must hold the 64-byte nonce",
    ),
    "seal cut off": (("header", "digest_logs"), [SEAL + "00" * 63], "the seal must hold the 64-byte nonce"),
    "seal with more behind": (("header", "digest_logs"), [SEAL + "00" * 65], "the seal must hold the 64-byte nonce"),
    "digest too large": (("header", "digest_logs"), ["06" * 110, SEAL + hex512(1)], "the digest has 111 bytes .*: 110"),
    "too many logs": (("header", "digest_logs"), ["08"] * 64 + [SEAL + hex512(1)], "digest_logs has 64 logs .*: 63"),
    "header null": (("header",), None, "header must be a JSON object"),
    "header a list": (("header",), [], "header must be a JSON object"),
    "header empty": (("header",), {}, "the header has no parentHash; it must have"),
    "other mining hash": (("mining_hash",), "00" * 32, "mining_hash is not that of the header, which is 12dbbf3a"),
    "mining hash null": (("mining_hash",), None, "mining_hash must be a string of hex"),
    "other nonce": (("nonce",), hex512(1), "nonce is not that of the header, which is f35da0e8"),
    "nonce a number": (("nonce",), 1, "nonce must be a string of hex"),
    "other nonce in the header": (("header", "nonce"), hex512(1), "nonce is not that of the header"),
}


@pytest.mark.parametrize(("path", "value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_block(document: dict[str, Any], path: tuple[str, ...], value: object, message: str) -> None:
    *parents, key = path
    place = document
    for parent in parents:
        place = place[parent]
    place[key] = value
    with pytest.raises(ValueError, match=message) as caught:
        parse(document)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["parentHash", "number", "stateRoot", "extrinsicsRoot", "zkTreeRoot", "digest_logs"])
def test_missing_field(document: dict[str, Any], field: str) -> None:
    del document["header"][field]
    with pytest.raises(ValueError, match=f"the header has no {field.replace('_', '.')}; it must have parentHash"):
        parse(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the block is not valid JSON: "),
        ("{", "the block is not valid JSON: "),
        (b"\xff\xfe\x00", "the block is not valid JSON: "),
        (b"{\xff}", "the block is not valid JSON: "),
        ("9" * 5000, "the block is not valid JSON: "),
        ("[]", "the block must be a JSON object"),
        ("null", "the block must be a JSON object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"header":' * 200_000, "nested too deeply"),
    ],
    ids=range(9),
)
def test_not_a_block(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SealedBlock.parse(text)
    assert "\n" not in str(caught.value)


def only_value_error(text: str | bytes) -> None:
    try:
        SealedBlock.parse(text)
    except ValueError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1


HOSTILE = settings(derandomize=True, database=None, deadline=None, max_examples=200)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
hex_text = st.binary(max_size=80).map(bytes.hex)
seals = st.binary(max_size=70).map(lambda data: SEAL + data.hex())
values = st.recursive(
    scalars | hex_text | seals,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@HOSTILE
@given(st.text() | st.binary())
def test_any_text_is_a_block_or_a_value_error(text: str | bytes) -> None:
    only_value_error(text)


@HOSTILE
@given(
    changes=st.dictionaries(
        st.sampled_from(["parentHash", "number", "stateRoot", "digest_logs", "digest", "mining_hash", "nonce", "hash"]),
        values | st.lists(hex_text | seals, max_size=4),
        max_size=3,
    ),
    outer=st.dictionaries(
        st.sampled_from(["mining_hash", "nonce", "header", "result", "block", "error"]), values, max_size=2
    ),
)
def test_any_change_of_a_value_is_a_block_or_a_value_error(changes: dict[str, Any], outer: dict[str, Any]) -> None:
    document = vectors("real_block")
    document["header"].update(changes)
    document.update(outer)
    only_value_error(json.dumps(document))


@HOSTILE
@given(st.data())
def test_any_change_of_a_byte_is_a_block_or_a_value_error(data: st.DataObject) -> None:
    text = bytearray((VECTORS / "real_block.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    only_value_error(bytes(text))


@HOSTILE
@given(st.integers(0, 31), st.integers(1, 255), st.sampled_from(["parentHash", "stateRoot", "zkTreeRoot"]))
def test_any_other_header_has_another_mining_hash(place: int, flip: int, field: str) -> None:
    document = vectors("real_block")
    changed = bytearray.fromhex(document["header"][field])
    changed[place] ^= flip
    document["header"][field] = changed.hex()
    with pytest.raises(ValueError, match="mining_hash is not that of the header"):
        parse(document)
