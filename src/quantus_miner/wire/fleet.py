"""Messages between a hub and its rigs, and the subjects that they travel on: JSON over NATS. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from quantus_miner.errors import legible
from quantus_miner.model import LiveJob
from quantus_miner.wire.core import RemoteProtocolError
from quantus_miner.wire.nats_url import Address, format_servers, parse_servers

JOB: Final = "quantus.job"
"""The hub's current job, to all rigs."""
HELLO: Final = "quantus.hello"
"""A rig asks for the current job and its slot: ``quantus.hello.NAME``, with a reply."""
SOLUTION: Final = "quantus.solution"
"""A rig's solution: ``quantus.solution.NAME``, with a reply."""
STATUS: Final = "quantus.status"
"""A rig's state: ``quantus.status.NAME``."""
RIG: Final = "quantus.rig"
"""To one rig: ``quantus.rig.NAME``. Its slot or its orders have changed."""
LEASE: Final = "quantus.lease"
"""Among the hubs of a cluster: who leads. Stored in LEASE_STREAM."""
LEASE_STREAM: Final = "QUANTUS_LEASE"
OUTBOX: Final = "quantus.outbox"
"""Among the hubs of a cluster: the solutions, ``quantus.outbox.HEADER.NONCE``. Stored in OUTBOX_STREAM."""
OUTBOX_STREAM: Final = "QUANTUS_OUTBOX"
VERDICT: Final = "quantus.verdict"
"""To one rig: ``quantus.verdict.NAME``. What the pool says of its solution."""
INBOX: Final = "_INBOX"
"""Prefix of the subjects of replies to a rig: ``_INBOX.NAME.>``."""
HUB_INBOX: Final = "+hub"
"""In place of a rig's name: replies to a hub. No rig can have this name."""

MAX_MESSAGE: Final = 4096
"""Bytes of a message, in both directions."""
MAX_NAME: Final = 64
MAX_DEVICES: Final = 16
"""Devices that a rig reports one by one."""
MAX_POOLS: Final = 4
"""Pools that a hub can set for a rig."""
MAX_POOL_URL: Final = 256
"""Characters of the URL of one of them."""
MAX_PREFIX: Final = 31
"""Bytes of a job's prefix, with the slot."""
URL_FORM: Final = "tls://TOKEN@HOST:PORT[,HOST:PORT…] as `quantus-miner hub invite NAME` prints it"

Hex32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Meta(pattern="^[0-9a-f]{128}$")]
Prefix = Annotated[str, Meta(pattern="^([0-9a-f]{2}){0,31}$")]
Text = Annotated[str, Meta(min_length=1, max_length=128)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Meta(ge=0, le=1e18)]
Degrees = Annotated[float, Meta(ge=-300, le=1000)]
PoolText = Annotated[str, Meta(min_length=1, max_length=MAX_POOL_URL)]
State = Literal["kept", "stale", "invalid", "later"]
Message = TypeVar("Message", bound=msgspec.Struct)


class JobMessage(msgspec.Struct):
    """A job. ``run``: the run of the hub that it is from. ``number``: its place there; only the newest counts.

    ``difficulty``: decimal. ``target``: the largest valid hash. ``prefix``: the bytes that every nonce begins with.
    ``divided``: the slot of the rig follows them.
    """

    run: Text
    number: Count
    job_id: Annotated[str, Meta(max_length=1024)]
    header: Hex32
    difficulty: Annotated[str, Meta(pattern="^[1-9][0-9]{0,154}$")]
    target: Hex64
    prefix: Prefix
    divided: bool


class Orders(msgspec.Struct, omit_defaults=True):
    """What a hub asks of a rig. The newest ones count. ``id``: of their content; empty if nothing was ever asked.

    ``pools``: URLs of the pools that stand behind the hub, paid to ``wallet``; None for the rig's own. ``reloads``,
    ``restarts``: how often the rig was asked to read its settings again, and to restart.
    """

    id: Annotated[str, Meta(max_length=32)] = ""
    paused: bool = False
    pools: Annotated[list[PoolText], Meta(max_length=MAX_POOLS)] | None = None
    wallet: Annotated[str, Meta(max_length=128)] = ""
    reloads: Count = 0
    restarts: Count = 0


NO_ORDERS: Final = Orders()


class Welcome(msgspec.Struct):
    """The reply to HELLO. ``job``: None if there is none now. ``slot``: bytes; None if there is none for this job."""

    job: JobMessage | None
    slot: Prefix | None
    orders: Orders | None = None


class RigMessage(msgspec.Struct):
    """To a rig whose slot has changed, before the next job, or whose orders have.

    ``slot``: None if there is none for that job.
    """

    slot: Prefix | None
    orders: Orders | None = None


class SolutionMessage(msgspec.Struct):
    """A solution for ``header``."""

    header: Hex32
    nonce: Hex64


class SolutionReply(msgspec.Struct):
    """What the hub does with a solution.

    ``kept``: it is on the hub's disk, and is sent or was sent. ``stale``: it is too late. ``invalid``: it is not a
    solution. ``later``: the hub has no work yet, ask again.
    """

    state: State


class OutboxMessage(msgspec.Struct):
    """A solution in the outbox of a cluster. ``sent``: the number of a ``Sent``."""

    header: Hex32
    nonce: Hex64
    value: Hex64
    sent: Annotated[int, Meta(ge=0, le=2)]


class VerdictMessage(msgspec.Struct):
    """What a pool says of a rig's solution. ``reason``: its text for a refusal."""

    nonce: Hex64
    judgement: Literal["accepted", "rejected", "stale"]
    reason: Annotated[str, Meta(max_length=256)] = ""


class DeviceMessage(msgspec.Struct, omit_defaults=True):
    """One GPU of a rig, or its CPU workers: nonces a second, degrees Celsius, watts."""

    id: Annotated[str, Meta(max_length=32)]
    hash_rate: Rate
    temperature: Degrees | None = None
    power: Rate | None = None


class StatusMessage(msgspec.Struct, omit_defaults=True):
    """The state of a rig. ``hash_rate``: nonces a second over 10 s. ``hashes``, ``solutions``: since its start."""

    version: Annotated[str, Meta(max_length=64)]
    uptime_s: Rate
    hash_rate: Rate
    hashes: Count
    solutions: Count
    workers: Count
    temperature: Degrees | None = None
    """Degrees Celsius of the hottest GPU."""
    power: Rate | None = None
    """Watts of all GPUs."""
    rate_60s: Rate | None = None
    rate_15m: Rate | None = None
    """Nonces a second over 60 s and over 15 minutes. None until these have passed."""
    devices: Annotated[list[DeviceMessage], Meta(max_length=MAX_DEVICES)] = []
    """The first MAX_DEVICES, if there are several."""
    pauses: Annotated[list[Annotated[str, Meta(max_length=16)]], Meta(max_length=8)] = []
    """Why it does not mine, or one of its devices does not."""
    paused: bool = False
    """True if all of its devices are paused."""
    source: Annotated[str, Meta(max_length=128)] = ""
    """What it mines for, if that is not the hub."""
    accepted: Count = 0
    rejected: Count = 0
    stale: Count = 0
    """Verdicts of its own pools on its shares."""
    done: Annotated[str, Meta(max_length=32)] = ""
    """Id of the last orders that it has obeyed or refused."""
    refused: Annotated[str, Meta(max_length=128)] = ""
    """Why it has refused them, or a part of them."""


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as bytes."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[Message]) -> Message:
    """Return the message in ``data``. Raises RemoteProtocolError, one line."""
    if len(data) > MAX_MESSAGE:
        raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE:,} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"a malformed message: {legible(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("a message that is not JSON") from None


def job_message(job: LiveJob, run: str, number: int, hub: bytes) -> JobMessage:
    """Return a job as the hub sends it. ``hub``: its number, which follows the pool's extranonce if there is one."""
    return JobMessage(
        run=run,
        number=number,
        job_id=job.id,
        header=job.header.hex(),
        difficulty=str(job.difficulty),
        target=f"{job.target:0128x}",
        prefix=(job.prefix + hub).hex() if job.prefix else "",
        divided=bool(job.prefix),
    )


def live_job(message: JobMessage, slot: bytes | None) -> LiveJob | None:
    """Return the job as a rig searches it, None if it needs a slot and has none. Raises RemoteProtocolError."""
    if message.divided and slot is None:
        return None
    prefix = bytes.fromhex(message.prefix) + ((slot or b"") if message.divided else b"")
    difficulty = int(message.difficulty)
    if difficulty >= 2**512 or len(prefix) > MAX_PREFIX:
        raise RemoteProtocolError("a job whose difficulty or prefix is too long")
    job = LiveJob(message.job_id, bytes.fromhex(message.header), difficulty, prefix)
    target = int(message.target, 16)
    return job if target == job.target else LiveJob(job.id, job.header, difficulty, prefix, target)


@dataclass(frozen=True, slots=True)
class HubUrl:
    """Where a hub is, and a rig's credentials. ``seed``: its private key. ``pin``: SHA-256 of the servers' certificate.

    ``servers``: the NATS servers, of which any will do. Without ``pin``, the system's authorities decide.
    """

    name: str
    seed: str
    pin: bytes | None
    servers: tuple[Address, ...]

    def __str__(self) -> str:
        """Return it without the credentials."""
        return f"tls://{format_servers(self.servers)}"

    @property
    def secret(self) -> str:
        """Return it with the credentials, as ``parse_hub_url`` reads it."""
        pin = f".{self.pin.hex()}" if self.pin else ""
        return f"tls://{self.name}.{self.seed}{pin}@{format_servers(self.servers)}"


def parse_rig_name(text: str) -> str:
    """Return ``text`` if a rig may have this name. Raises ValueError that says what is allowed."""
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}", text):
        raise ValueError(f"a rig's name must be 1 to {MAX_NAME} letters, digits, '_' and '-'")
    return text


def parse_hub_url(text: str) -> HubUrl:
    """Return the hub that ``text`` names. Raises ValueError, whose text says what is allowed and holds no secret."""
    token = rf"([A-Za-z0-9_-]{{1,{MAX_NAME}}})\.(SU[A-Z2-7]{{56}})(?:\.([0-9a-f]{{64}}))?"
    match = re.fullmatch(rf"tls://{token}@([^@/?#]+)", text.strip())
    if match is None:
        raise ValueError(URL_FORM)
    try:
        return HubUrl(match[1], match[2], bytes.fromhex(match[3]) if match[3] else None, parse_servers(match[4]))
    except ValueError:
        raise ValueError(URL_FORM) from None
