"""The table of backends: nothing else knows engines by name, and a new row is all that a new engine needs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import quantus_miner
from quantus_miner import doctor
from quantus_miner import pow as reference
from quantus_miner.backends import table
from quantus_miner.backends.backend import Backend
from quantus_miner.backends.base import EngineStatus
from quantus_miner.backends.registry import create_engines, update_engines
from quantus_miner.backends.throttled import ThrottledEngine
from quantus_miner.cli import cli
from quantus_miner.devices import lines, look
from quantus_miner.errors import EngineUnavailableError, SettingError
from quantus_miner.gpu.device import Device, DriverError
from quantus_miner.mining.miner import Miner
from quantus_miner.model import Job, NonceRange, Pow, Solution, target_from_difficulty
from quantus_miner.settings import Settings, load
from quantus_miner.unit import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quantus_miner.backends.backend import EngineOptions, Resources
    from quantus_miner.backends.base import Engine

SOURCE = Path(__file__).parent.parent / "src" / "quantus_miner"
HEADER = bytes(range(32))
WAIT_S = 60.0
CARD = Device(0, "a toy", "gpu", "0000:0a:00.0", "1.0", "Toy")


def settings(folder: Path, **flags: str) -> Settings:
    return load({"state_dir": str(folder), **flags}, {}, None)


def solve(engines: Sequence[Engine], on_job_solved: Sequence[Callable[[], None]] = ()) -> Solution:
    """Have a miner solve an easy job with ``engines``."""
    miner, ended = Miner(engines, chunk_s=0.05, on_job_solved=on_job_solved), threading.Event()
    miner.start()
    try:
        job = Job("a", Pow.POSEIDON2, HEADER, target_from_difficulty(20), (NonceRange(1, 10**9),))
        search = miner.submit(job, lambda _: ended.set())
        assert ended.wait(WAIT_S)
    finally:
        assert miner.close(WAIT_S)
    assert search.solution is not None
    assert reference.evaluate(job.pow, HEADER, search.solution.nonce) == search.solution.value <= job.target
    return search.solution


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the example in the documentation."""
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page.partition("**A backend**")[2], re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "toy_backend.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("toy_backend")
    del sys.modules["toy_backend"]


def add(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    monkeypatch.setattr(table, "BACKENDS", (*table.BACKENDS, backend))


def test_a_row_is_all_that_a_new_cpu_backend_needs(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"--engine: 'cpu-toy' .* is not allowed"):
        settings(tmp_path, engine="cpu-toy")
    add(monkeypatch, Backend("cpu-toy", frozenset(Pow), toy.create))
    chosen = settings(tmp_path, engine="cpu-toy,cpu-baseline")
    engines = create_engines(chosen, 3)
    assert [(engine.name, engine.workers) for engine in engines] == [("cpu-toy", 2), ("cpu-baseline", 1)]
    assert solve(engines[:1]) == solve(engines[1:])
    assert "  cpu-toy                available" in list(lines(look()))
    found = [finding.found for finding in doctor.examine(Host({}), lambda: chosen) if finding.about == "engine"]
    assert found == ["cpu-toy, cpu-baseline passed the self test"]


def test_a_new_cpu_backend_that_computes_wrong_results_is_not_used(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "nonce_at", lambda _, position: position + 1)
    add(monkeypatch, Backend("cpu-toy", frozenset(Pow), toy.create))
    with pytest.raises(EngineUnavailableError) as caught:
        create_engines(settings(tmp_path, engine="cpu-toy"), 1)
    assert str(caught.value) == (
        "engine 'cpu-toy' is not available: its kernel reference fails the self test of qpow-poseidon2;"
        " use cpu-baseline and report this"
    )


def test_a_row_is_all_that_a_new_backend_with_devices_needs(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(monkeypatch, Backend("gpu-toy", frozenset({Pow.POSEIDON2}), toy.create, lambda: [CARD]))
    (engine,) = create_engines(settings(tmp_path, engine="gpu-toy", gpu_devices="0a:00.0"), 0)
    miner = Miner([engine], chunk_s=0.05)
    assert [(card.id, card.engine, card.up) for card in miner.stats().gpus] == [(CARD.id, "gpu-toy", True)]
    solve([engine])
    shown = list(lines(look()))
    assert shown[shown.index("  gpu-toy                available") + 1] == (
        "    0: a toy (gpu, PCI 0000:0a:00.0, driver 1.0)"
    )
    hidden = Host({}, unit={"PrivateDevices": "yes"})
    found = doctor.examine(hidden, lambda: settings(tmp_path, engine="gpu-toy"))
    assert "the unit hides all devices (PrivateDevices=)" in [finding.found for finding in found]

    bench = ("bench", "--engine", "gpu-toy", "--state-dir", str(tmp_path), "--seconds", "0.1")
    cli.main(bench, standalone_mode=False)
    assert re.fullmatch(r"  gpu-toy .*kernel reference, 1 workers.*\n", capsys.readouterr().out)
    with pytest.raises(quantus_miner.errors.MinerError, match="--pow: engine gpu-toy has no kernel for qpow-sha3"):
        cli.main((*bench, "--pow", "qpow-sha3"), standalone_mode=False)


def test_a_new_backend_without_a_driver_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe() -> list[Device]:
        raise DriverError("the toy driver is not installed")

    def create(name: str, options: EngineOptions, resources: Resources) -> Engine:
        pytest.fail("created")

    add(monkeypatch, Backend("gpu-toy", frozenset(Pow), create, probe))
    with pytest.raises(EngineUnavailableError) as caught:
        create_engines(settings(tmp_path, engine="gpu-toy"), 1)
    assert str(caught.value) == (
        "engine 'gpu-toy' is not available: the toy driver is not installed; use cpu-fast or cpu-baseline"
    )
    assert "  gpu-toy                not available: the toy driver is not installed" in list(lines(look()))


def test_a_backend_hears_of_solved_jobs_if_it_subscribes(tmp_path: Path) -> None:
    callbacks: list[Callable[[], None]] = []
    engines = create_engines(settings(tmp_path, engine="cpu-chain-manipulator,cpu-baseline"), 2, callbacks.append)
    throttled, baseline = engines
    assert isinstance(throttled, ThrottledEngine)
    assert callbacks == [throttled.on_job_solved]
    solve([throttled], callbacks)
    solve([baseline], callbacks)  # another engine's solutions count too
    assert throttled.solved_blocks == 2


def test_engines_that_can_take_over_the_options_are_kept(tmp_path: Path) -> None:
    before = create_engines(settings(tmp_path, engine="cpu-fast,cpu-baseline"), 3)
    after = update_engines(before, settings(tmp_path, engine="cpu-baseline,cpu-fast"), 5)
    assert after == before[::-1]
    assert [engine.workers for engine in after] == [3, 2]
    fast, other = update_engines(after, settings(tmp_path, engine="cpu-fast,cpu-chain-manipulator"), 2)
    assert fast is before[0]
    assert isinstance(other, ThrottledEngine)
    (scalar,) = update_engines([fast, other], settings(tmp_path, engine="cpu-fast", kernel="scalar"), 1)
    assert scalar is not fast
    assert scalar.kernel(Pow.SHA3) == "scalar"


def test_an_update_that_fails_changes_nothing(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(toy.ToyEngine, "close", lambda engine: closed.append(engine.name))
    add(monkeypatch, Backend("cpu-toy", frozenset(Pow), toy.create))
    engines = create_engines(settings(tmp_path, engine="cpu-fast,cpu-baseline"), 2)
    callbacks: list[Callable[[], None]] = []
    names = "cpu-baseline,cpu-chain-manipulator,cpu-toy,cpu-fast"
    with pytest.raises(SettingError, match="there is no kernel"):
        update_engines(engines, settings(tmp_path, engine="cpu-baseline,cpu-toy,cpu-fast", kernel="avx9"), 8)
    with monkeypatch.context() as wrong:
        wrong.setattr(toy, "nonce_at", lambda _, position: position + 1)
        with pytest.raises(EngineUnavailableError, match="fails the self test"):
            update_engines(engines, settings(tmp_path, engine=names), 8, callbacks.append)
    assert [engine.workers for engine in engines] == [1, 1]
    assert callbacks == []
    assert closed == ["cpu-toy"] * 2
    updated = update_engines(engines, settings(tmp_path, engine=names), 8, callbacks.append)
    assert [engine.workers for engine in updated] == [2, 2, 2, 2]
    assert len(callbacks) == 1


def test_devices_come_and_go_and_the_others_keep_their_engines(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = [CARD, replace(CARD, index=1, pci="0000:0b:00.0"), replace(CARD, index=2, pci=None)]

    def probe() -> list[Device]:
        if not listed:
            raise DriverError("the toy driver is gone")
        return list(listed)

    def update(devices: str) -> list[Engine]:
        return update_engines(engines, settings(tmp_path, engine="gpu-toy", gpu_devices=devices), 0)

    add(monkeypatch, Backend("gpu-toy", frozenset({Pow.POSEIDON2}), toy.create, probe))
    engines: list[Engine] = []
    engines = first, second, third = update("all")
    assert update("all") == engines
    assert update("0,2") == [first, third]
    fourth = update("0")
    assert fourth == [first]
    engines = fourth
    assert update("0b:00.0,0a:00.0") != [first]
    assert update("0b:00.0,0a:00.0")[0] is first
    engines = [first, second, third]
    # A card that no driver lists any more is lost: its engine looks for it.
    del listed[0]
    listed[:] = [replace(device, index=index) for index, device in enumerate(listed)]
    kept, new, lost = update("all")
    assert (kept, lost) == (second, first)
    assert new.status().device == listed[1]  # without an address it is known by its index only
    listed.clear()
    assert update("all") == engines
    assert update("0a:00.0") == [first]
    with pytest.raises(EngineUnavailableError, match="the toy driver is gone"):
        update("77")
    assert caplog.messages == []


def test_present_engines_whose_devices_are_all_lost_are_no_reason_to_refuse(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, Backend("gpu-toy", frozenset({Pow.POSEIDON2}), toy.create, lambda: [CARD]))
    engines = create_engines(settings(tmp_path, engine="gpu-toy"), 0)
    monkeypatch.setattr(toy.ToyEngine, "status", lambda engine: EngineStatus(engine.device, "unplugged"))
    assert update_engines(engines, settings(tmp_path, engine="gpu-toy", gpu_duty="50"), 0) == engines
    with pytest.raises(EngineUnavailableError, match="engine 'gpu-toy' is not available: unplugged"):
        update_engines((), settings(tmp_path, engine="gpu-toy"), 0)


def test_a_throttled_engine_does_not_sleep_in_its_self_test(tmp_path: Path) -> None:
    flags = {"manip_solved_blocks": str(2**64 - 1), "manip_step_batch": "1"}
    (engine,) = create_engines(settings(tmp_path, engine="cpu-chain-manipulator", **flags), 1)
    assert isinstance(engine, ThrottledEngine)
    assert engine.delay > 10**9


@pytest.mark.parametrize("name", [backend.name for backend in table.BACKENDS if backend.kind == "cpu"])
def test_rows_name_the_proofs_of_work_that_their_engines_search(tmp_path: Path, name: str) -> None:
    (engine,) = create_engines(settings(tmp_path, engine=name), 1)
    assert {pow_ for pow_ in Pow if engine.kernel(pow_) is not None} == table.find(name).pows


def test_no_engine_is_named_outside_of_the_table() -> None:
    named = []
    for path in SOURCE.glob("**/*.py"):
        if path == SOURCE / "backends" / "table.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(text := node.value, str):
                named += [
                    f"{path.name}:{node.lineno}: {name}"
                    for name in (*table.names(), "cpu-", "gpu-")
                    if text == name or (len(name) > 4 and name in text)
                ]
    assert named == []


def test_the_table_loads_neither_kernels_nor_drivers() -> None:
    script = (
        "import sys, quantus_miner.settings, quantus_miner.cli\n"
        "print([name for name in sys.modules if name.startswith(('quantus_miner.gpu', 'quantus_miner.native', 'cffi',"
        " '_cffi', 'cuda.', 'pyopencl', 'pynvml', 'numpy'))])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert ended.stdout == "[]\n"
