"""Requests to an HTTP server, with limits on time and size."""

from __future__ import annotations

import http.client
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quantus_miner.host.deadline import within

if TYPE_CHECKING:
    from collections.abc import Mapping


class HttpServer:
    """The server at ``url``, http or https. Raises ValueError if ``url`` is not one."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        if (
            parts.scheme not in ("http", "https")
            or not self._host
            or "@" in parts.netloc
            or not re.fullmatch(r"[\x21-\x7e]+", url)
        ):
            raise ValueError("not an http or https URL")
        self._tls = parts.scheme == "https"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def request(
        self, method: str, path: str, body: str, headers: Mapping[str, str], *, timeout_s: float, max_reply: int
    ) -> tuple[int, bytes]:
        """Return the status code and the body of the reply.

        Raises OSError, HTTPException, or ValueError for a reply of more than ``max_reply`` bytes. From the name look-up
        to the last byte it takes ``timeout_s`` seconds at most, otherwise it raises TimeoutError.
        """
        return within(timeout_s, lambda: self._request(method, path, body, headers, timeout_s, max_reply))

    def _request(
        self, method: str, path: str, body: str, headers: Mapping[str, str], timeout_s: float, max_reply: int
    ) -> tuple[int, bytes]:
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=ssl.create_default_context())
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        )
        try:
            connection.request(method, path, body, {"Connection": "close", **headers})
            response = connection.getresponse()
            reply = response.read(max_reply + 1)
        finally:
            connection.close()
        if len(reply) > max_reply:
            raise ValueError(f"the reply is larger than {max_reply} bytes")
        return response.status, reply


def reason(error: Exception) -> str:
    """Return why a request failed, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
