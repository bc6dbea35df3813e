"""Connect to a NATS server with a key, over TLS with a certificate that is known."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Client

CONNECT_S: Final = 10.0
PING_S: Final = 5
"""Seconds between two pings. If two are not answered, the connection ends."""
EXTRA: Final = "the extra hub is missing: pip install 'quantus-miner[hub]'"


def trusting(certificate: bytes | str) -> ssl.SSLContext:
    """Return a context that trusts one certificate, in DER or PEM form, whatever the server's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


async def connect(
    address: tuple[str, int],
    context: ssl.SSLContext,
    *,
    seed: str,
    inbox: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_end: Callable[[], Awaitable[None]],
) -> Client:
    """Return a client. ``on_end`` is called when its connection ends; it does not connect again.

    ``seed``: the private key. ``inbox``: prefix of the subjects of replies. Raises OSError, TimeoutError, an Error of
    ``nats.errors``, or MachineError without the extra ``hub``.
    """
    try:
        from nats.aio.client import Client
    except ImportError:
        raise MachineError(EXTRA) from None
    logging.getLogger("asyncio").addFilter(_is_not_about_eof)
    client = Client()
    try:
        async with asyncio.timeout(CONNECT_S):
            await client.connect(
                f"tls://{units.endpoint(*address)}",
                tls=context,
                nkeys_seed_str=seed,
                inbox_prefix=inbox,
                allow_reconnect=False,
                max_reconnect_attempts=1,  # 0 would mean for ever, also for the first connection
                reconnect_time_wait=0,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                error_cb=on_error,
                disconnected_cb=on_end,
                closed_cb=on_end,
            )
    except BaseException:
        await client.close()
        raise
    return client


def _is_not_about_eof(record: logging.LogRecord) -> bool:
    """Drop a warning about the library's protocol, at each end of a TLS connection. It has no consequence."""
    return "eof_received() has no effect" not in record.getMessage()
