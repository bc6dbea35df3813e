"""A miner in which something is broken before it starts."""

from __future__ import annotations

import uuid

from .conftest import MinerProcess

WAIT_S = 60.0
HEADER = bytes(range(32)).hex()


def job(difficulty: str = "1000") -> dict[str, str]:
    return {"job_id": str(uuid.uuid4()), "mining_hash": HEADER, "difficulty": difficulty}


class Broken(MinerProcess):
    """The real service, with a fault built in: ``patch`` is run before it; ``boom`` raises."""

    def __init__(self, patch: str, *args: str, **environ: str) -> None:
        prologue = "def boom(*_, **__):\n    raise RuntimeError('boom')\n"
        self.program = ("-c", f"{prologue}{patch}\nfrom quantus_miner.cli import main\nmain()")
        super().__init__("--port=0", "--workers=1", *args, **environ)

    def works(self) -> None:
        assert self.call("GET", "/health")[0] == 200
        solvable = job()
        assert self.call("POST", "/mine", solvable)[0] == 200
        assert self.result(solvable["job_id"])["status"] == "completed"
