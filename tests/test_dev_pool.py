"""The development pool and its command."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from quantus_miner.cli import cli
from quantus_miner.dev.misbehaviour import PoolMisbehaviour
from quantus_miner.dev.pool import _until
from quantus_miner.errors import MinerError
from quantus_miner.sources.link import Handover

from .pool_link import WAIT_S, dev_pool, linked, run, solve, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def test_a_port_that_is_taken_is_one_line() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool:
            with pytest.raises(MinerError, match="--listen: cannot listen on "):
                await dev_pool().start(int(pool.url.rpartition(":")[2]))

    run(test)


def test_the_development_pool_drops_what_breaks_the_protocol() -> None:
    async def test() -> None:
        async with started(dev_pool()) as pool:
            said: list[str] = []
            pool.report = said.append
            login = b'{"method":"login","id":1,"params":{"login":"wallet.rig"}}\n'
            # The pool cannot answer a login, or a share, that something bad has followed already.
            inputs = (
                b"x" * 20_000,
                b"GET / HTTP/1.1\r\n\r\n",
                b'{"method":"submit","id":1}\n',
                login + b"x\n",
                login * 2,
            )
            for data in inputs:
                reader, writer = await asyncio.open_connection(*pool.url.removeprefix("stratum+tcp://").split(":"))
                writer.write(data)
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            reasons = [line.partition(" is dropped: ")[2] for line in said if "is dropped" in line]
            assert len(reasons) == len(inputs)
            assert reasons[3:] == [
                "a line that is not JSON",
                "not allowed in state 'checking the login': the miner logs in",
            ]
            assert not pool.miners

    run(test)


@contextlib.asynccontextmanager
async def ended_at_last(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kills the process if what is done with it fails."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


@pytest.mark.parametrize("tls", [False, True])
def test_the_command_dev_pool(tls: bool) -> None:
    async def test() -> None:
        # No share of so low a difficulty is a block of the default one, but by a chance of one in 60,000.
        options = ["--listen", "0", "--shares", "3", "--share-difficulty", "5", *(["--tls"] if tls else [])]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "quantus_miner", "dev-pool", *options, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        first = (await asyncio.wait_for(process.stdout.readline(), WAIT_S)).decode()
        url = first.split()[-1]
        async with ended_at_last(process), linked(url) as (link, listener, _):
            job = await listener.job()
            for number in range(1, 4):
                assert link.submit(job, solve(job, number * 1000), 1, 1.0) is Handover.SENT
                assert (await listener.verdict()).accepted
        rest = (await asyncio.wait_for(process.stdout.read(), WAIT_S)).decode().splitlines()
        assert await process.wait() == 0
        assert sum(text.startswith("share ") for text in rest) == 3
        assert re.search(r"^dev-pool: 3 shares accepted, 0 rejected, 0 blocks in .* H/s$", rest[-1])

    run(test)


def test_dev_pool_ends_with_the_miner_that_it_started() -> None:
    async def test(process: subprocess.Popen[str]) -> None:
        async with started(dev_pool()) as pool:
            with pytest.raises(MinerError, match=r"^the miner ended with exit code 3$"):
                await _until(pool, asyncio.Event(), None, process)

    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], text=True) as process:
        run(lambda: test(process))


def test_dev_pool_says_what_goes_together() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner", "dev-pool", "--misbehave", "wrong-pin"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "quantus-miner: --misbehave wrong-pin goes with --tls\n")


def test_dev_pool_offers_every_misbehaviour() -> None:
    (choice,) = (option.type for option in cli.commands["dev-pool"].params if option.name == "misbehave")
    assert isinstance(choice, click.Choice)
    assert list(choice.choices) == list(PoolMisbehaviour)
