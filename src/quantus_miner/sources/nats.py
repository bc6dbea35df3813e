"""Connect to a NATS server over TLS, with a certificate that is known."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import ssl
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from quantus_miner import units
from quantus_miner.errors import LinkLostError, LinkRefusedError, MachineError
from quantus_miner.sources.addresses import LookUpError, connect_tcp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.client import Client

    from quantus_miner.sources.addresses import Addresses

CONNECT_S: Final = 10.0
PING_S: Final = 5
"""Seconds between two pings. If two are not answered, the connection ends."""
CLOSE_S: Final = 0.5
"""Seconds that a server has to read what is left."""
MAX_INFO: Final = 65_536
REFUSED: Final = "authorization violation"
"""In the server's words."""
EXTRA: Final = "the extra hub is missing: pip install 'quantus-miner[hub]'"


def trusting(certificate: bytes | str) -> ssl.SSLContext:
    """Return a context that trusts one certificate, in DER or PEM form, whatever the server's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority may have signed it
    context.load_verify_locations(cadata=certificate)
    return context


async def trusting_pin(pin: bytes | None, addresses: Addresses) -> ssl.SSLContext:
    """Return a context that trusts the certificate with SHA-256 ``pin`` alone; None: what the system trusts.

    Raises LinkRefusedError if the server has another certificate, LinkLostError if it cannot be reached.
    """
    if pin is None:
        return ssl.create_default_context()
    try:
        async with asyncio.timeout(CONNECT_S):
            certificate = await _see_certificate(addresses)
    except LookUpError as error:
        raise LinkLostError(str(error)) from None
    except (OSError, TimeoutError, ValueError, EOFError) as error:
        raise LinkLostError(f"no connection: {error or type(error).__name__}") from None
    found = sha256(certificate).digest()
    if not hmac.compare_digest(found, pin):
        raise LinkRefusedError(f"its certificate has SHA-256 {found.hex()}, not the pinned {pin.hex()}")
    return trusting(certificate)


async def connect(
    server: tuple[str, int],
    context: ssl.SSLContext,
    *,
    inbox: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_end: Callable[[], Awaitable[None]],
    seed: str | None = None,
    connect_s: float = CONNECT_S,
    **login: str,
) -> Client:
    """Return a client. ``on_end`` is called when its connection ends; it does not connect again.

    ``seed``: the private key. ``login``: ``user`` and ``password``, or ``user_credentials`` with the path of a file,
    instead. ``inbox``: prefix of the subjects of replies. Raises OSError, TimeoutError, an Error of ``nats.errors``, or
    MachineError without the extra ``hub``.
    """
    try:
        from nats.aio.client import Client
    except ImportError:
        raise MachineError(EXTRA) from None
    logging.getLogger("asyncio").addFilter(_is_not_about_eof)
    client = Client()
    try:
        async with asyncio.timeout(connect_s):
            await client.connect(
                f"tls://{units.endpoint(*server)}",
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
                **login,
            )
    except BaseException:
        await close(client)
        raise
    return client


async def open_session(
    stack: contextlib.AsyncExitStack,
    server: tuple[str, int],
    context: ssl.SSLContext,
    *,
    refused: str,
    inbox: str,
    connect_s: float = CONNECT_S,
    **login: str,
) -> tuple[Client, asyncio.Future[None]]:
    """Return a client, which is closed with ``stack``, and a future that is done when its connection ends.

    ``refused``: what to say if the server refuses the login. The others are those of ``connect``. Raises
    LinkRefusedError then, LinkLostError if it cannot be reached, MachineError without the extra ``hub``.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    said: list[str] = []

    async def on_error(error: Exception) -> None:
        said.append(str(error))

    async def on_end() -> None:
        if not ended.done():
            ended.set_result(None)

    try:
        client = await connect(
            server, context, inbox=inbox, on_error=on_error, on_end=on_end, connect_s=connect_s, **login
        )
    except MachineError:
        raise
    except Exception as error:  # of this library, whatever it is
        if any(REFUSED in text.lower() for text in (*said, str(error))):
            raise LinkRefusedError(refused) from None
        raise LinkLostError((said or [str(error)])[-1] or type(error).__name__) from None
    stack.push_async_callback(close, client)
    return client, ended


async def close(client: Client) -> None:
    """Close a connection, within CLOSE_S even if the server does not read."""
    with contextlib.suppress(Exception):  # of this library, whatever it is
        async with asyncio.timeout(CLOSE_S):
            await client.close()
            return
    # The library waits for its buffer to empty, and only then ends its tasks.
    for subscription in client._subs.values():  # noqa: SLF001
        if subscription._wait_for_msgs_task is not None:  # noqa: SLF001
            subscription._wait_for_msgs_task.cancel()  # noqa: SLF001
    transport = client._transport  # noqa: SLF001
    if (writer := getattr(transport, "_io_writer", None)) is not None:
        writer.transport.abort()


async def _see_certificate(addresses: Addresses) -> bytes:
    """Return the server's certificate in DER form. Nothing is sent but the TLS handshake."""
    sock, _ = await connect_tcp(await addresses.look_up(CONNECT_S))
    reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_INFO)
    try:
        await reader.readuntil(b"\n")  # NATS begins with a line about the server
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await writer.start_tls(context)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate
    finally:
        writer.transport.abort()


def _is_not_about_eof(record: logging.LogRecord) -> bool:
    """Drop a warning about the library's protocol, at each end of a TLS connection. It has no consequence."""
    return "eof_received() has no effect" not in record.getMessage()
