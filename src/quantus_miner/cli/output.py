"""Reports as JSON, shared by several commands."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    import msgspec

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


def echo_json(report: msgspec.Struct) -> None:
    """Print ``report`` as one line of ASCII. Texts of drivers and files cannot control the terminal that way."""
    import msgspec

    # A path may have lone surrogates, which JSON does not allow.
    text = json.dumps(msgspec.to_builtins(report), ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode()
    click.echo(re.sub(r"[^\0-\x7e]", lambda match: json.dumps(match[0])[1:-1], text))
