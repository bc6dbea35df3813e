"""What the benchmarks count, and that each of them runs to its end."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from benchmarks import ceilings, first_card, gpu, gpu_switch, kernels, process, sass
from benchmarks.counting import Counting, NotCountedError

from quantus_miner import native
from quantus_miner.backends.gpu import GpuEngine
from quantus_miner.gpu import drivers
from quantus_miner.model import Order, Pow

CHECKOUT = Path(__file__).parent.parent

counts = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not (shutil.which("objdump") and shutil.which("cc")),
    reason="needs an x86-64 processor, a C compiler and objdump; on Debian and Ubuntu: apt install gcc binutils",
)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


@counts
def test_instructions_are_counted_exactly(counting: Counting) -> None:
    kernel = native.find_kernel(Pow.SHA3, "scalar")
    first = counting.instructions(kernel)
    # Keccak alone: 24 rounds of at least 25 lanes with some 3 operations each.
    assert 24 * 25 * 3 < first.total < 20_000
    assert first.vector == 0
    assert counting.instructions(kernel) == first


@counts
def test_a_vector_kernel_calculates_in_vectors(counting: Counting) -> None:
    kernel = native.find_kernel(Pow.SHA3, None)
    if kernel.name == "scalar":
        pytest.skip("no vector kernel runs on this processor")
    counted = counting.instructions(kernel)
    assert 0.5 < counted.vector / counted.total < 1


@counts
def test_a_mix_has_the_forms_and_proportions_of_the_kernel(counting: Counting) -> None:
    kernel = native.find_kernel(Pow.POSEIDON2, None)
    if kernel.name in ("scalar", "neon"):
        pytest.skip(f"kernel {kernel.name} has no vector instructions that are counted")
    mix = counting.instructions(kernel).mix
    block = ceilings.mixed(mix, 1000)
    for form, count in mix.items():
        assert abs(block.count(form) - 1000 * count / sum(mix.values())) <= 1
    assert {"add", "multiply", "shift", "compare"} <= {form.kind for form in mix}
    alone = ceilings.cycles_per_instruction(block, counting.clocked)
    assert 0.05 < alone < 20


@pytest.mark.parametrize(
    ("mnemonic", "operands", "kind", "loop"),
    [
        ("vpaddq", "0x40(%rsp,%rax,8),%zmm1,%zmm2", "add", "vpaddq %zmm0, %zmm1, %zmm4"),
        ("vpaddq", "(%rax){1to8},%zmm1,%zmm2{%k3}{z}", "masked add", "vpaddq %zmm0, %zmm1, %zmm4{%k1}"),
        ("vpcmpltuq", "%zmm1,%zmm2,%k3", "compare", "vpcmpltuq %zmm0, %zmm1, %k2"),
        ("vpsrlq", "$0x20,%ymm1,%ymm2", "shift", "vpsrlq $0x20, %ymm0, %ymm4"),
        ("vpsubq", "%ymm1,%ymm2,%ymm3", "add", "vpsubq %ymm0, %ymm1, %ymm4"),
        ("vpmadd52luq", "%zmm1,%zmm2,%zmm3", "multiply-add", "vpmadd52luq %zmm0, %zmm1, %zmm4"),
        ("vpshufb", "0x1(%rip),%ymm2,%ymm3        # 10 <x>", "permute", "vpshufb %ymm0, %ymm1, %ymm4"),
        ("vblendvpd", "%ymm4,%ymm1,%ymm2,%ymm3", "blend", "vblendvpd %ymm0, %ymm1, %ymm2, %ymm4"),
    ],
)
def test_an_instruction_is_timed_in_the_form_it_has(mnemonic: str, operands: str, kind: str, loop: str) -> None:
    form = ceilings.parse_form(mnemonic, operands)
    assert form is not None
    assert form.kind == kind
    assert f"    {loop}\n" in ceilings.listing([form])


def test_the_clock_is_one_of_a_processor(counting: Counting) -> None:
    result, clock = counting.clocked(lambda: 1.5)
    assert result == 1.5
    assert 1e8 < clock < 1e10


# Three loops, one in another, as the compiler makes them.
LISTING = """
.text.search_walk:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 EXIT ;
.L_x_5:
        /*0020*/                   IMAD.WIDE.U32 R2, R4, R5, R6 ;
.L_x_1:
        /*0030*/                   IADD3 R2, P1, R4, R5, RZ ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   LDC.64 R2, c[0x3][R4] ;
.L_x_0:
        /*0060*/               @P5 BRA `(.L_x_3) ;
.L_x_2:
        /*0070*/                   IMAD R2, R4, R5, R6 ;
        /*0080*/              @!P1 BRA `(.L_x_2) ;
        /*0090*/                   SEL R2, R4, R5, P0 ;
.L_x_3:
        /*00a0*/                   IMAD.HI.U32 R2, R4, R5, R6 ;
        /*00b0*/              @!P1 CALL.REL.NOINC `(.L_x_4) ;
        /*00c0*/                   BRA `(.L_x_1) ;
.L_x_4:
        /*00d0*/               @P0 BRA `(.L_x_6) ;
        /*00e0*/                   STG.E [R4.64], R9 ;
.L_x_6:
        /*00f0*/                   BRA.U !UP0, `(.L_x_5) ;
        /*0100*/                   EXIT ;
.L_x_7:
        /*0110*/                   BRA `(.L_x_7);
.text.other:
        /*0000*/                   EXIT ;
"""


def test_instructions_of_a_gpu_count_as_often_as_their_loop_runs() -> None:
    counted = sass.instructions(LISTING, "search_walk")
    once, rounds, permutations, internal = 1, 14, 2, 44
    assert counted == {
        "wide": once + rounds,
        "multiply": internal,
        "memory": once,  # the second layer, and no hit
        "alu": rounds,
        "light": permutations,
        "control": rounds + rounds + internal + 2 * rounds + 2 * once,
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@!P1 BRA `(.L_x_2)", "@!P1 BRA `(.L_x_3)"),  # no internal loop
        ("@P5 BRA `(.L_x_3)", "@P5 BRA `(.L_x_4)"),  # another end of the rounds
        ("SEL R2, R4, R5, P0", "RET.REL.NODEC R2"),
        (".text.search_walk:", ".text.search_walks:"),
    ],
)
def test_other_control_flow_is_not_counted(old: str, new: str) -> None:
    with pytest.raises(NotCountedError):
        sass.instructions(LISTING.replace(old, new), "search_walk")


@pytest.mark.parametrize("arch", ["sm_75", "sm_89", "sm_90", "sm_120"])
def test_the_machine_code_of_a_gpu_has_the_products_that_it_needs(arch: str) -> None:
    cuda = pytest.importorskip("quantus_miner.gpu.cuda")
    try:
        listing = sass.disassemble(cuda.compile_for(arch))
    except NotCountedError as error:
        pytest.skip(str(error))
    # Four products of four parts each; the parts of squares that are equal are calculated once, where additions are
    # not scarce, and else half of the sums are products as well.
    s_box, internal = (16, 12 * 4 + 12) if arch == "sm_120" else (14, 12 * 4)
    for entry, s_boxes in (("search_walk", 2 + 15 * 12 + 44), ("search_counting", 16 * 12 + 44)):
        needed = s_boxes * s_box + 44 * internal
        # There are some more at the beginning and at the end.
        assert needed <= sass.instructions(listing, entry)["wide"] < 1.05 * needed


def test_the_first_run_on_a_card_goes_on_after_a_part_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    report = first_card.Report()
    with report.part("a"):
        raise ValueError("no such thing")
    with report.part("b"):
        print("done")
    assert report.failed == ["a"]
    said = capsys.readouterr().out
    assert "FAILED: a: no such thing\n" in said
    assert re.search(r"^== b\ndone\n-- \d", said, re.MULTILINE)


def test_the_first_run_on_a_card_searches_the_golden_vectors(opencl_engine: GpuEngine) -> None:
    first_card.golden(opencl_engine)
    opencl_engine._is_valid = lambda *_: False  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="difficulty"):
        first_card.golden(opencl_engine)


def test_published_rates_are_scaled_by_multiprocessors_and_clock(capsys: pytest.CaptureFixture[str]) -> None:
    multiprocessors, clock = first_card.RTX_4090
    first_card.published(1375e6, clock / 2, 2 * multiprocessors)
    assert re.search(r"closed source +1375 .. +1375 MH/s; ours is 1\.00 x$", capsys.readouterr().out, re.MULTILINE)


def test_a_simulated_card_changes_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_switch.run(2, 0.1)
    assert re.findall(r"^2 switches: .* p50 +[0-9.]+ ms", capsys.readouterr().out, re.MULTILINE)


@pytest.fixture
def opencl_engine(opencl_on_cpu: None, tmp_path: Path) -> GpuEngine:
    """On the CPU."""
    driver = drivers.load("opencl")
    device = next(device for device in driver.devices() if device.kind == "cpu")
    engine = GpuEngine("gpu-opencl", device, partial(driver.open_device, device, tmp_path), language="opencl", blocks=1)
    engine.open()
    return engine


def test_the_hits_of_a_gpu_are_compared_with_those_of_the_cpu(
    opencl_engine: GpuEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = opencl_engine
    for order in Order:
        assert gpu.exact(engine, order, 64 * 200)
        assert "12,800 nonces" in capsys.readouterr().out
    # A card that finds nothing.
    engine._is_valid = lambda *_: False  # type: ignore[method-assign]
    gpu.exact(engine, Order.WALK, 64 * 1000)
    hits, missed = re.findall(r"nonces, ([0-9]+) hits, ([0-9]+) missed, 0 false", capsys.readouterr().out)[0]
    assert hits == missed != "0"


# --- each one, short ---

SMOKE = {
    "service": ("--workers=1", "--seconds=0.5", "--rounds=1", "--calls=3"),
    "exactness": ("--nonces=2000", "--difficulty=64"),
    "durability": ("--kills=1",),
    "live": ("--workers=1", "--jobs=5", "--rounds=1", "--seconds=0.2"),
    "load": ("--seconds=0.2", "--rounds=1", "--attacks=none"),
    "soak": ("--jobs=5", "--disconnects=5"),
    "failover": ("busy", "--seconds=1"),
    "reload": ("--seconds=1", "--changes=5"),
    "page": ("--seconds=0.3", "--rounds=1", "--clients=1"),
    "fleet": ("--rigs=3", "--miners=3", "--jobs=1", "--seconds=0.3"),
}


@pytest.mark.parametrize("name", SMOKE)
def test_a_benchmark_runs_to_its_end_and_leaves_the_users_state_alone(name: str, tmp_path: Path) -> None:
    if name == "fleet" and not (shutil.which("nats-server") or Path(sys.executable).with_name("nats-server").exists()):
        pytest.skip("needs nats-server (apt install nats-server)")
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path), "MINER_PORT": "a benchmark takes no settings of the user"}
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMOKE[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir())


def test_kernels_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    kernels.compare(Pow.SHA3, 1, 0.01, None)
    kernels.scaling(Pow.POSEIDON2, 1, 0.01, 2)
    shown = capsys.readouterr().out
    assert re.search(r"^  baseline +\S+ [kM]?H/s +1\.00 x baseline", shown, re.MULTILINE)
    assert re.search(r"2 workers do \d+\.\d+ x one", shown)


def test_a_benchmark_that_waits_says_for_what_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WAIT_S", 0.01)
    with pytest.raises(SystemExit, match="waited 0 s for rain, and gave up"):
        process.wait_until("rain", lambda: False)
    with pytest.raises(SystemExit, match="waited 0 s for rain, and gave up"):
        asyncio.run(process.come_to("rain", lambda: False))
