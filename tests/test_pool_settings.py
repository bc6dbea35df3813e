"""What operators write about a pool: URL, wallet, worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantus_miner.errors import SettingError
from quantus_miner.settings import load
from quantus_miner.wire.address import address_warning, compose_login
from quantus_miner.wire.pool_url import ALLOWED, NEEDS_PIN, PoolUrl, parse_pool_url

ALICE_SUBSTRATE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
ALICE_POLKADOT = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"
ALICE_QUANTUS = "qzpFUhjXpZnRCbNr9LW5sAkWmTus52Ffcf31MBpig82u1JArX"
PIN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stratum+tcp://pool.example:3333", PoolUrl("stratum+tcp", "pool.example", 3333)),
        (" stratum+tcp://127.0.0.1:1/ ", PoolUrl("stratum+tcp", "127.0.0.1", 1)),
        ("stratum+ssl://[2001:db8::1]:65535", PoolUrl("stratum+ssl", "2001:db8::1", 65535)),
        ("quic://pool.example:9833?insecure=1", PoolUrl("quic", "pool.example", 9833, insecure=True)),
        ("stratum+ssl://h:1?insecure=1", PoolUrl("stratum+ssl", "h", 1, insecure=True)),
        (f"quic://h:1?pin={PIN.upper()}", PoolUrl("quic", "h", 1, pin=bytes.fromhex(PIN))),
        ("stratum+ssl://h:1?pin=" + ":".join(["ab"] * 32), PoolUrl("stratum+ssl", "h", 1, pin=b"\xab" * 32)),
    ],
)
def test_a_pool_url(text: str, expected: PoolUrl) -> None:
    url = parse_pool_url(text)
    assert url == expected
    assert url.tls == (url.scheme != "stratum+tcp")
    # Shown without pin; and what is shown can be read again.
    assert parse_pool_url(f"{url}?insecure=1" if url.scheme == "quic" else str(url)).host == url.host


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pool.example:3333",
        "http://pool.example:3333",
        "stratum://pool.example:3333",
        "stratum+tcp://pool.example",
        "stratum+tcp://pool.example:0",
        "stratum+tcp://pool.example:65536",
        "stratum+tcp://pool.example:x",
        "stratum+tcp://:3333",
        "stratum+tcp://[::1:3333",
        "stratum+tcp://user:word@pool.example:3333",
        "stratum+tcp://pool.example:3333/path",
        "stratum+tcp://pool.example:3333#x",
        "stratum+tcp://po ol:3333",
        "stratum+ssl://h:1?insecure=0",
        "stratum+ssl://h:1?pin=",
        f"stratum+ssl://h:1?pin={PIN}00",
        f"stratum+ssl://h:1?pin={PIN}&insecure=1",
        "stratum+ssl://h:1?other=1",
        "stratum+tcp://h:1?insecure=1",
        f"stratum+tcp://h:1?pin={PIN}",
    ],
)
def test_what_is_no_pool_url_is_told_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="stratum") as error:
        parse_pool_url(text)
    assert ALLOWED in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("pool.example:3333", "stratum+tcp://pool.example:3333"),
        ("Pool.Example:3333/", "stratum+tcp://pool.example:3333"),
        ("[2001:db8::1]:3333", "stratum+tcp://[2001:db8::1]:3333"),
        ("//pool.example:3333", None),
        ("stratum://pool.example:3333", "stratum+tcp://pool.example:3333"),
        ("tcp://pool.example:3333", "stratum+tcp://pool.example:3333"),
        ("http://pool.example:3333", "stratum+tcp://pool.example:3333"),
        ("TLS://pool.example:3443", "stratum+ssl://pool.example:3443"),
        ("stratum+tls://pool.example:3443", "stratum+ssl://pool.example:3443"),
        (f"pool.example:3443?pin={PIN}", f"stratum+ssl://pool.example:3443?pin={PIN}"),
        ("pool.example:3443?insecure=1", "stratum+ssl://pool.example:3443?insecure=1"),
        ("pool.\nexample:33\t33", "stratum+tcp://pool.example:3333"),
        ("pool.example", None),
        ("user@pool.example:3333", None),
        ("po ol:3333", None),
    ],
)
def test_a_url_without_a_scheme_of_ours_is_answered_with_the_one_to_write(text: str, write: str | None) -> None:
    with pytest.raises(ValueError, match="stratum") as error:
        parse_pool_url(text)
    assert str(error.value) == (ALLOWED if write is None else f"{ALLOWED}; write {write}")
    assert write is None or str(parse_pool_url(write)) == write.partition("?")[0]


def test_quic_without_a_pin_is_refused_as_the_login_would_go_to_anybody() -> None:
    for text in ("quic://pool.example:9833", "QUIC://pool.example:9833/", "quic://pool.example:9833?"):
        with pytest.raises(ValueError, match=r"^quic://pool\.example:9833\?pin=.*\?insecure=1"):
            parse_pool_url(text)
    with pytest.raises(SettingError, match=r"^--pool: '.*' \(command line\) is not allowed; allowed: quic://p:1\?pin="):
        load({"pool": "stratum+tcp://a:1,quic://p:1", "wallet": "w"}, {"XDG_STATE_HOME": "/x"}, None)


@given(st.text())
def test_any_text_is_a_pool_url_or_a_clear_error(text: str) -> None:
    for candidate in (text, f"stratum+ssl://{text}", f"quic://h:1?{text}"):
        try:
            assert parse_pool_url(candidate).scheme in candidate
        except ValueError as error:
            assert ALLOWED in str(error) or str(error).endswith(NEEDS_PIN)
            assert str(error).isprintable()


def test_an_address_of_quantus() -> None:
    assert address_warning(ALICE_QUANTUS) is None


@pytest.mark.parametrize(
    ("wallet", "warning"),
    [
        (ALICE_SUBSTRATE, "network 42"),
        (ALICE_POLKADOT, "network 0"),
        ("", "wrong length"),
        ("krxABC", "wrong length"),
        ("1" * 128, "wrong length"),
        (ALICE_QUANTUS[:-1], "wrong length"),
        (ALICE_QUANTUS + "1", "wrong length"),
        ("0x" + "ab" * 32, "base58"),
        ("qz" * 10_000, "wrong length"),
    ],
)
def test_what_is_no_address_of_quantus(wallet: str, warning: str) -> None:
    assert warning in (address_warning(wallet) or "")


@given(st.integers(0, len(ALICE_QUANTUS) - 1), st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnop"))
def test_a_mistyped_character_is_noticed(place: int, character: str) -> None:
    wallet = ALICE_QUANTUS[:place] + character + ALICE_QUANTUS[place + 1 :]
    assert (address_warning(wallet) is None) == (wallet == ALICE_QUANTUS)


def test_a_login() -> None:
    assert compose_login(ALICE_QUANTUS, "rig_1") == f"{ALICE_QUANTUS}.rig_1"
    assert compose_login("solo:abc", "A-9") == "solo:abc.A-9"


@pytest.mark.parametrize(
    ("wallet", "worker", "message"),
    [
        ("", "w", "a wallet must be"),
        ("a.b", "w", "a wallet must be"),
        ("a b", "w", "a wallet must be"),
        ("a\n", "w", "a wallet must be"),
        ("a" * 129, "w", "a wallet must be"),
        ("a", "", "a worker name must be"),
        ("a", "x.y", "a worker name must be"),
        ("a", "ü", "a worker name must be"),
        ("a", "w" * 65, "a worker name must be"),
    ],
)
def test_what_cannot_be_a_login(wallet: str, worker: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose_login(wallet, worker)


def test_a_pool_that_is_named_twice_counts_once() -> None:
    """Two links of one name would also share their metrics."""
    flags = {"pool": "stratum+tcp://a:1, stratum+tcp://b:1,stratum+tcp://a:1/", "wallet": ALICE_QUANTUS}
    pools = load(flags, {"HOME": "/nowhere"}, None).pool
    assert pools == (PoolUrl("stratum+tcp", "a", 1), PoolUrl("stratum+tcp", "b", 1))
