"""Faults that a development pool shows on request."""

from __future__ import annotations

from enum import StrEnum


class PoolMisbehaviour(StrEnum):
    """A fault that a development pool shows on request."""

    BUSY = "busy"
    """Refuses the first login with ``server busy``."""
    DROP = "drop"
    """Drops a miner at every third share."""
    FLOOD = "flood"
    """Sends a line without an end after the login."""
    FORGET = "forget"
    """Forgets a miner at every third share, and answers ``Unauthenticated`` until it logs in again."""
    GARBAGE = "garbage"
    """Sends a line that is not JSON after the login."""
    NO_REPLY = "no-reply"
    """Never sends a verdict."""
    ONE_JOB = "one-job"
    """Drops a miner after its first job."""
    QUIET = "quiet"
    """Sends one job, and repeats it every block time. Keepalives are answered."""
    REFUSE_LOGIN = "refuse-login"
    """Refuses every login."""
    REFUSE_SHARES = "refuse-shares"
    """Refuses every share with ``Invalid nonce``."""
    SLOW_JOB = "slow-job"
    """Answers the login without a job, and sends it a share time later."""
    STALL = "stall"
    """Accepts connections and sends nothing."""
    WRONG_PIN = "wrong-pin"
    """Names a fingerprint that is not that of its certificate."""
    WRONG_TARGET = "wrong-target"
    """Sends jobs, after the first, whose target is not that of their difficulty."""
