"""The OpenAPI description of a hub's API."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from quantus_miner import __version__
from quantus_miner.wire.api import MineResponse
from quantus_miner.wire.commands import CommandEntry, CommandList, CommandReply, CommandRequest
from quantus_miner.wire.events import EventMessage, LogMessage
from quantus_miner.wire.history import HistoryReply, PointMessage
from quantus_miner.wire.hub_status import HubStatus, MinersMessage
from quantus_miner.wire.openapi import PAGE, answers, plain, reading, steering

_, _COMPONENTS = msgspec.json.schema_components(
    [
        *(HubStatus, MinersMessage, CommandRequest, CommandReply, CommandEntry, CommandList),
        *(MineResponse, HistoryReply, PointMessage, EventMessage, LogMessage),
    ],
    ref_template="#/components/schemas/{name}",
)

DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {"title": "Quantus miner hub", "version": __version__, "license": {"name": "Apache-2.0"}},
    "paths": {
        **reading("/status", "The hub and its miners at this moment", "HubStatus"),
        "/commands": {
            "get": {
                "summary": "The last commands to the rigs",
                "responses": answers("CommandList", _200="The commands, the newest last.")
                | answers("MineResponse", _403="The request comes from a web page of another site."),
            }
        },
        **steering(
            "/command",
            "Ask rigs to do something",
            "CommandRequest",
            "CommandReply",
            "The command is on the disk, and the rigs that are here hear of it.",
            "The command is not valid, or there is no such rig or tag.",
        ),
        **{path: call for path, call in PAGE.items() if path != "/doctor"},
        **plain("/openapi.json", "This document", _200="This document."),
        **plain("/version", "Name and version", _200="Name and version."),
    },
    "components": {
        "schemas": _COMPONENTS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}

OPENAPI: Final = msgspec.json.encode(DOCUMENT)
