"""The OpenAPI description of the job API, from the message types themselves."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from quantus_miner import __version__
from quantus_miner.wire.api import MAX_JOB_ID, MineResponse, MiningResult
from quantus_miner.wire.events import DoctorReply, EventMessage, LogMessage
from quantus_miner.wire.history import HistoryReply, PointMessage
from quantus_miner.wire.hive import HiveStats
from quantus_miner.wire.json_rpc import RpcReply, RpcRequest
from quantus_miner.wire.status import PauseReply, PauseRequest, Status
from quantus_miner.wire.xmrig import Backend, Summary

_HEX: Final = "[0-9a-fA-F]"


def _reply(schema: str, description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def answers(schema: str, **descriptions: str) -> dict[str, Any]:
    """Describe replies with the same content. ``descriptions``: by code, as in ``_200``."""
    return {code.removeprefix("_"): _reply(schema, text) for code, text in descriptions.items()}


_REQUEST: Final = {
    "type": "object",
    "description": (
        "Exactly one of distance_threshold (a job of qpow-sha3) and difficulty (a job of qpow-poseidon2); "
        "both nonces or neither. Unknown fields are ignored."
    ),
    "required": ["job_id", "mining_hash"],
    "properties": {
        "job_id": {"type": "string", "minLength": 1, "maxLength": MAX_JOB_ID, "description": "A UUID is recommended."},
        "mining_hash": {"type": "string", "pattern": f"^{_HEX}{{64}}$"},
        "nonce_start": {"type": "string", "pattern": f"^{_HEX}{{128}}$", "description": "Inclusive."},
        "nonce_end": {"type": "string", "pattern": f"^{_HEX}{{128}}$", "description": "Inclusive."},
        "distance_threshold": {
            "type": "string",
            "pattern": "^[0-9]{1,155}$",
            "description": "Decimal, below 2^512; valid: distance <= threshold.",
        },
        "difficulty": {
            "type": "string",
            "pattern": "^0*[1-9][0-9]{0,154}$",
            "description": "Decimal, 1 .. 2^512 - 1; valid: hash < (2^512 - 1) / difficulty.",
        },
    },
    "oneOf": [{"required": ["distance_threshold"]}, {"required": ["difficulty"]}],
    "dependentRequired": {"nonce_start": ["nonce_end"], "nonce_end": ["nonce_start"]},
}

_JOB_ID: Final = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_TOKEN: Final[list[dict[str, list[str]]]] = [{}, {"token": []}]

_, _COMPONENTS = msgspec.json.schema_components(
    [
        *(MiningResult, MineResponse, Status, PauseRequest, PauseReply),
        *(HistoryReply, DoctorReply, EventMessage, LogMessage, PointMessage),
        *(Summary, Backend, HiveStats, RpcRequest, RpcReply),
    ],
    ref_template="#/components/schemas/{name}",
)

_BACKENDS: Final = {"type": "array", "items": {"$ref": "#/components/schemas/Backend"}}


def plain(path: str, summary: str, **descriptions: str) -> dict[str, Any]:
    """Describe a call whose reply is any JSON object."""
    responses = {
        code.removeprefix("_"): {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
        for code, text in descriptions.items()
    }
    return {path: {"get": {"summary": summary, "responses": responses}}}


def reading(path: str, summary: str, schema: str) -> dict[str, Any]:
    """Describe a call that only reads."""
    return {path: {"get": {"summary": summary, "responses": answers(schema, _200="The miner at this moment.")}}}


def steering(path: str, summary: str, request: str, reply: str, done: str, wrong: str) -> dict[str, Any]:
    """Describe a call that needs the token."""
    body = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}}
    replies = answers(reply, _200=done) | answers(
        "MineResponse",
        _400=wrong,
        _401="A token is required.",
        _403="The request comes from a web page, or no token exists.",
        _408="The body did not arrive in time.",
        _413="The body is too large.",
    )
    security: list[dict[str, list[str]]] = [{"token": []}]
    return {path: {"post": {"summary": summary, "security": security, "requestBody": body, "responses": replies}}}


def _pausing(path: str, summary: str) -> dict[str, Any]:
    wrong = "The body is not valid, or there is no such device."
    return steering(path, summary, "PauseRequest", "PauseReply", "Done, or it was so already.", wrong)


def text(path: str, summary: str, kind: str, **replies: str) -> dict[str, Any]:
    """Describe a call of the page whose reply is not JSON."""
    content = {kind: {"schema": {"type": "string"}}}
    responses = {"200": {"description": summary, "content": content}} | answers("MineResponse", **replies)
    return {path: {"get": {"summary": summary, "responses": responses}}}


_OFF: Final = "The page is switched off."
_FOREIGN: Final = "The request comes from a web page of another site."
_SPAN: Final = {"name": "span", "in": "query", "schema": {"enum": ["hour", "day"], "default": "hour"}}

PAGE: Final[dict[str, Any]] = {
    **text("/", "The page", "text/html", _404=_OFF),
    **text("/static/{name}", "A file of the page", "text/javascript", _404="There is no such file, or no page."),
    **text(
        "/events",
        "Status, events, points of the history and lines of the log, as they come",
        "text/event-stream",
        _403=_FOREIGN,
        _404=_OFF,
        _503="Too many clients read events, or the miner is shutting down.",
    ),
    "/history": {
        "get": {
            "summary": "Hash rates and finds of the last hour or day",
            "parameters": [_SPAN],
            "responses": answers("HistoryReply", _200="The history.")
            | answers("MineResponse", _400="There is no such span.", _403=_FOREIGN, _404=_OFF),
        }
    },
    "/doctor": {
        "get": {
            "summary": "What the service finds at itself",
            "responses": answers("DoctorReply", _200="The findings.")
            | answers("MineResponse", _403=_FOREIGN, _404=_OFF),
        }
    },
}
PAGE["/static/{name}"]["get"]["parameters"] = [
    {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
]

DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {"title": "Quantus external miner", "version": __version__, "license": {"name": "Apache-2.0"}},
    "paths": {
        "/mine": {
            "post": {
                "summary": "Give the miner a job",
                "security": _TOKEN,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/MineRequest"}}},
                },
                "responses": answers(
                    "MineResponse",
                    _200="The job is accepted.",
                    _400="The request is not valid; message says why.",
                    _401="A token is required.",
                    _403="The request comes from a web page.",
                    _408="The body did not arrive in time.",
                    _409="A job with this id exists; it goes on untouched.",
                    _413="The body is too large.",
                    _415="The content type is not application/json.",
                    _503="No room for one more job.",
                ),
            }
        },
        "/result/{job_id}": {
            "get": {
                "summary": "Where a job stands",
                "security": _TOKEN,
                "parameters": [_JOB_ID],
                "responses": answers("MiningResult", _200="The job.", _404="No such job: status not_found.")
                | answers("MineResponse", _401="A token is required.", _403="The request comes from a web page."),
            }
        },
        "/cancel/{job_id}": {
            "post": {
                "summary": "End a job; a solution that was found stays",
                "security": _TOKEN,
                "parameters": [_JOB_ID],
                "responses": answers(
                    "MineResponse",
                    _200="The job has ended.",
                    _401="A token is required.",
                    _403="The request comes from a web page.",
                    _404="No such job.",
                ),
            }
        },
        **_pausing("/pause", "Stop mining until resume, on all devices or one"),
        **_pausing("/resume", "Mine again"),
        **reading("/status", "The miner at this moment", "Status"),
        **reading("/2/summary", "The same as xmrig says it", "Summary"),
        **reading("/1/summary", "The same under an older name", "Summary"),
        **reading("/api.json", "The same under the oldest name", "Summary"),
        "/2/backends": {
            "get": {
                "summary": "CPU workers and GPUs as xmrig lists them",
                "responses": {
                    "200": {"description": "All of them.", "content": {"application/json": {"schema": _BACKENDS}}}
                },
            },
        },
        **steering(
            "/json_rpc",
            "Pause and resume as with xmrig: methods pause, stop, resume, start",
            "RpcRequest",
            "RpcReply",
            "Done, or the error of JSON-RPC.",
            "The body broke off.",
        ),
        **reading("/hive-stats", "The stats object of HiveOS", "HiveStats"),
        **PAGE,
        **plain("/health", "Check that the miner accepts jobs", _200="Ready.", _503="Not ready."),
        **plain("/openapi.json", "This document", _200="This document."),
        **plain("/version", "Name and version", _200="Name and version."),
    },
    "components": {
        "schemas": {"MineRequest": _REQUEST, **_COMPONENTS},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}

OPENAPI: Final = msgspec.json.encode(DOCUMENT)
