"""A client of a node's JSON-RPC server, for the few calls that ``quantus-miner verify`` needs."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any, Final

from quantus_miner.errors import MAX_REASON, MinerError, SettingError
from quantus_miner.host.http_server import HttpServer, reason

TIMEOUT_S: Final = 15.0
"""Seconds for one call, from the name look-up to the last byte."""
MAX_REPLY: Final = 65_536
"""Bytes of the largest accepted reply. One with a header has about 700."""
DIFFICULTY_BYTES: Final = 64


class RpcError(MinerError):
    """The node answered a call with an error."""


class NodeRpc:
    """The JSON-RPC server of a node at ``url``, http or https. Every method raises MinerError without a usable reply.

    Raises SettingError if ``url`` is not allowed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._server = HttpServer(url)
        except ValueError:
            raise SettingError(
                f"--rpc: {url[:MAX_REASON]!r} is not allowed; allowed: http://HOST:PORT or https://HOST:PORT, "
                "which a node serves on the port that it names for ws:// and wss://"
            ) from None

    def call(self, method: str, *params: object) -> Any:  # noqa: ANN401 - any JSON value
        """Make a call and return its result. Raises RpcError if the node answers with an error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        try:
            return parse_result(self._post(body))
        except RpcError as error:
            raise RpcError(f"--rpc: {self.url}: {method}: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MinerError(f"--rpc: {self.url} does not answer {method}: {reason(error)}") from None

    def _post(self, body: str) -> bytes:
        headers = {"Content-Type": "application/json"}
        status, reply = self._server.request(
            "POST", self._server.path, body, headers, timeout_s=TIMEOUT_S, max_reply=MAX_REPLY
        )
        if status != http.HTTPStatus.OK:
            raise ValueError(f"HTTP status {status}")
        return reply

    def block_hash(self, height: int) -> str:
        """Return the hash, in hex with 0x, of the block at ``height`` on the node's best chain."""
        found = self.call("chain_getBlockHash", height)
        if found is None:
            raise MinerError(f"--height: {self.url} has no block {height} yet")
        if not isinstance(found, str) or not re.fullmatch("0x[0-9a-f]{64}", found):
            raise MinerError(f"--rpc: {self.url}: chain_getBlockHash: the result is not a hash of 32 bytes")
        return found

    def header(self, block_hash: str) -> object:
        """Return the header of a block, as the node sends it."""
        return self.call("chain_getHeader", block_hash)

    def next_difficulty(self, block_hash: str) -> int:
        """Return the difficulty that a block on top of ``block_hash`` must meet."""
        # A U512 in SCALE: 64 bytes, little-endian.
        found = self.call("state_call", "QPoWApi_get_difficulty", "0x", block_hash)
        if not isinstance(found, str) or not re.fullmatch(f"0x[0-9a-f]{{{2 * DIFFICULTY_BYTES}}}", found):
            raise RpcError(f"--rpc: {self.url}: QPoWApi_get_difficulty: the result is not {DIFFICULTY_BYTES} bytes")
        return int.from_bytes(bytes.fromhex(found[2:]), "little")


def parse_result(reply: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the result in a JSON-RPC reply. Raises RpcError if it is an error, ValueError if it is not a reply."""
    try:
        document = json.loads(reply)
    except (ValueError, RecursionError):
        raise ValueError("the reply is not JSON") from None
    if not isinstance(document, dict) or not {"result", "error"} & document.keys():
        raise ValueError("the reply is not JSON-RPC")
    if (error := document.get("error")) is not None:
        message = error.get("message") if isinstance(error, dict) else error
        raise RpcError(str(message)[:MAX_REASON])
    return document.get("result")
