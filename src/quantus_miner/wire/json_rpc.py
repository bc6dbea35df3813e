"""JSON-RPC 2.0 as miners are called by it: one request, one reply. No I/O."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Id = int | float | str | None

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
PARSE_ERROR: Final = -32700


class RpcRequest(msgspec.Struct):
    """A request. Other fields are ignored, such as ``params`` and Claymore's password."""

    method: str
    id: Id = None


class RpcError(msgspec.Struct):
    """Why a request failed. ``code``: one of JSON-RPC's."""

    code: int
    message: str


class RpcReply(msgspec.Struct):
    """The reply: ``result`` or ``error``."""

    id: Id
    jsonrpc: Literal["2.0"]
    result: Any | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | msgspec.UnsetType = msgspec.UNSET


def parse(data: bytes) -> RpcRequest | RpcReply:
    """Return the request in ``data``, or the reply to one that is not valid."""
    try:
        return msgspec.json.decode(data, type=RpcRequest)
    except msgspec.ValidationError:
        return failure(None, INVALID_REQUEST, "Invalid Request")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failure(None, PARSE_ERROR, "Parse error")


def success(request: RpcRequest, result: object) -> RpcReply:
    """Return the reply to a request that was carried out."""
    return RpcReply(request.id, "2.0", result=result)


def failure(id_: Id, code: int, message: str) -> RpcReply:
    """Return the reply to a request that was not."""
    return RpcReply(id_, "2.0", error=RpcError(code, message))
