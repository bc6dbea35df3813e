"""The supervisor: parts that raise in every phase, settings that change while it runs, and the end in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import pytest

import quantus_miner
from quantus_miner import hub_service, service
from quantus_miner.errors import MinerError
from quantus_miner.parts import supervisor as module
from quantus_miner.setting import FROM_FILES
from quantus_miner.setting_table import SETTINGS
from quantus_miner.settings import Settings

from .conftest import MinerProcess
from .toys import WAIT_S, Toy, lifetime, supervised

pytestmark = pytest.mark.usefixtures("quick_restarts")


def test_parts_start_in_order_and_stop_in_the_opposite_one() -> None:
    order: list[str] = []

    async def main() -> None:
        parts = [Toy("one"), Toy("two"), Toy("three")]
        for part in parts:
            part.note = lambda phase, part=part: order.append(f"{phase} {part.name}")  # type: ignore[method-assign,misc]
        await lifetime(supervised(parts), lambda: asyncio.sleep(0))

    asyncio.run(main())
    moves = [move for move in order if not move.startswith(("run", "tick"))]
    assert moves == ["start one", "start two", "start three", "stop three", "stop two", "stop one"]


@pytest.mark.parametrize("phase", ["start", "run", "tick", "stop"])
def test_a_part_that_raises_is_logged_and_started_again(phase: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[Toy, Toy]:
        broken, other = Toy(), Toy("The other")
        broken.faults[phase] = 1

        async def work() -> None:
            await broken.until(
                *{"start": ("start", "start", "run"), "run": ("run", "stop", "start", "run")}.get(
                    phase, ("run", "tick", "tick")
                )
            )
            await other.until("start", "run", "tick")

        await lifetime(supervised([other, broken]), work)
        return broken, other

    broken, other = asyncio.run(main())
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        {
            "start": "The toy has failed to start",
            "run": "The toy has failed; next try in 0.0 s",
            "tick": "The toy's tick has failed",
            "stop": "Stopping the toy has failed",
        }[phase]
    ]
    assert other.done.count("start") == other.done.count("run") == 1
    assert other.done[-1] == broken.done[-1] == "stop"


@pytest.mark.parametrize("raising", [RuntimeError("boom"), MinerError("no way")])
@pytest.mark.parametrize("phase", ["start", "run"])
def test_a_vital_part_that_raises_ends_the_service_and_all_parts_are_stopped(
    phase: str, raising: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Toy, Toy]:
        broken, other = Toy(vital=True, raising=raising), Toy("The other")
        broken.faults[phase] = 1
        with pytest.raises((RuntimeError, MinerError)) as ending:
            await lifetime(supervised([other, broken]), asyncio.Event().wait)
        if isinstance(raising, MinerError) or phase == "start":
            assert ending.value is raising
        else:
            assert str(ending.value).startswith("The toy has failed: RuntimeError: boom (toys.py:")
        return broken, other

    broken, other = asyncio.run(main())
    assert other.done[-1] == broken.done[-1] == "stop"
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == (
        ["The toy has failed"] if phase == "run" and not isinstance(raising, MinerError) else []
    )


def test_a_part_that_does_not_stop_in_time_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.01)

    class Stuck(Toy):
        async def stop(self) -> None:
            self.note("stop")
            await asyncio.Event().wait()

    async def main() -> Toy:
        other = Toy("The other")
        await lifetime(supervised([other, Stuck()]), lambda: other.until("run"))
        return other

    assert asyncio.run(main()).done[-1] == "stop"
    assert "Stopping the toy has failed" in caplog.text


def test_a_part_may_take_as_long_to_stop_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.0)

    class Slow(Toy):
        stop_s = WAIT_S

        async def stop(self) -> None:
            await asyncio.sleep(0.01)
            self.note("stop")

    async def main() -> Toy:
        slow = Slow()
        await lifetime(supervised([slow]), lambda: slow.until("run"))
        return slow

    assert asyncio.run(main()).done[-1] == "stop"


class Stubborn(Toy):
    """Goes on when it is cancelled, until ``released``."""

    released: asyncio.Event

    async def run(self) -> None:
        self.note("run")
        await self._insist()

    async def stop(self) -> None:
        self.note("stop")
        await self._insist()

    async def _insist(self) -> None:
        while not self.released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.released.wait()


def test_all_parts_together_stop_in_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that ignore that they are cancelled."""
    monkeypatch.setattr(module, "STOP_S", WAIT_S)
    monkeypatch.setattr(module, "END_S", 0.05)

    async def main() -> tuple[list[Stubborn], Toy]:
        parts, other = [Stubborn(f"The toy {number}") for number in range(5)], Toy("The other")
        Stubborn.released = asyncio.Event()
        try:
            async with asyncio.timeout(WAIT_S / 2):
                await lifetime(supervised([other, *parts]), lambda: parts[-1].until("run"))
        finally:
            Stubborn.released.set()
        return parts, other

    parts, other = asyncio.run(main())
    assert [part.done[-1] for part in (*parts, other)] == ["stop"] * 6


def test_the_end_during_the_start_stops_what_has_started() -> None:
    class Slow(Toy):
        async def start(self, settings: Settings) -> None:
            self.note("start")
            await asyncio.Event().wait()

    async def main() -> list[Toy]:
        parts = [Toy("one"), Slow("two"), Toy("three")]
        await lifetime(supervised(parts), lambda: parts[1].until("start"))
        return parts

    assert [part.done for part in asyncio.run(main())] == [["start", "stop"], ["start", "stop"], []]


# --- the table ---


def test_every_live_setting_is_applied_by_a_part_and_no_other() -> None:
    applied = {name for part in (*service.PARTS, *hub_service.PARTS) for name in part.settings}
    names = {field.name for field in fields(Settings)}
    assert applied == {setting.name for setting in SETTINGS if setting.applies == "live"} & names
    for name in FROM_FILES:
        both = {setting.applies for setting in SETTINGS if setting.name in (name, f"{name}_file")}
        assert both == {"live"}


# --- what docs/architecture.md says of adding a part or a setting ---

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"

TOY_SERVICE = """
from quantus_miner import service
from toys.greeter import Greeter
service.PARTS.append(Greeter)
from quantus_miner.cli import main
main()
"""


def toy_part() -> str:
    """The example of the page."""
    section = PAGE.read_text(encoding="utf-8").split("**A part of the service**")[1]
    return section.split("```python\n")[1].split("```")[0]


def test_a_part_that_is_made_as_the_page_says_works(tmp_path: Path) -> None:
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "greeter.py").write_text(toy_part())
    config = tmp_path / "miner.toml"
    config.write_text("workers = 1\n")

    class Toys(MinerProcess):
        program = ("-c", TOY_SERVICE)

    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with Toys("--port=0", f"--config={config}", PYTHONPATH=paths) as miner:
        assert miner.port
        miner.wait_for_line("Hello, 1 workers")
        config.write_text("workers = 2\n")
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Not 1 but 2 workers")
        assert miner.stop() == 0
        assert "Goodbye" in "\n".join(miner.log)


def test_a_setting_that_is_made_as_the_page_says_works(tmp_path: Path) -> None:
    """In a copy of the package, with its row, its field, and a part that applies it."""
    package = tmp_path / "quantus_miner"
    shutil.copytree(Path(quantus_miner.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    row = '    Setting("greeting", str, "Hello", "What is said at the start.", "TEXT"),\n'
    for name, before, added in (
        ("setting_table.py", "SETTINGS: Final = (\n", row),
        ("settings.py", "    port: int\n", "    greeting: str\n"),
    ):
        code = (package / name).read_text(encoding="utf-8")
        assert code.count(before) == 1
        (package / name).write_text(code.replace(before, before + added), encoding="utf-8")
    part = toy_part().replace('"workers"', '"greeting"').replace("workers", "greeting")
    (package / "parts" / "greeter.py").write_text(part)
    config = tmp_path / "miner.toml"
    config.write_text("greeting = 'Hi'\n")

    class Toys(MinerProcess):
        program = ("-c", TOY_SERVICE.replace("toys.", "quantus_miner.parts."))

    with Toys("--port=0", "--workers=1", f"--config={config}", PYTHONPATH=str(tmp_path)) as miner:
        assert miner.port
        miner.wait_for_line("Hello, Hi greeting")
        config.write_text("")
        miner.process.send_signal(signal.SIGHUP)
        miner.wait_for_line("Not Hi but Hello greeting")
        miner.wait_for_line("Reloaded: greeting")
        assert miner.stop() == 0
