"""What this processor could do at most with a kernel's vector calculations, if none of them had to wait for another.

A kernel's *mix* is the forms of its vector calculations (mnemonic, width, mask) and how often a nonce needs each. A
loop of the same forms in the same proportions, evenly mixed, on registers that hold nothing anybody waits for, is
timed: that is the ceiling. What is left between it and the kernel are dependencies, loads, moves, and the order of
instructions. The same loop of one kind alone shows how many of it the ports of the core can do.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

BLOCK: Final = 480
"""Instructions in a turn of the loop: enough to hide its end, few enough for every cache of decoded instructions."""
TURNS: Final = 4_000
REPEATS: Final = 9
SOURCES: Final = 4
"""Vector registers that are only read. All others are written in turn."""


class Form(NamedTuple):
    """An instruction without its registers. ``operands``: as in AT&T syntax, ``v`` for a vector register or memory."""

    mnemonic: str
    operands: tuple[str, ...]
    width: str
    masked: bool

    @property
    def kind(self) -> str:
        """What it does, in a word."""
        kinds = (
            ("multiply-add", "vpmadd52"),
            ("multiply", "vpmul"),
            ("add", "vpadd vpsub"),
            ("logic", "vpand vpor vpxor vpternlog"),
            ("shift", "vps vprol vpror vpshld vpshrd"),
            ("compare", "vpcmp vptestnm vptestm"),
            ("minimum", "vpmin vpmax"),
            ("permute", "vperm vpunpck vpshuf valign"),
            ("blend", "vpblend vblend"),
        )
        # The longest prefix wins: vpsub is no shift, and vpshuf neither.
        found = [
            (len(prefix), kind)
            for kind, prefixes in kinds
            for prefix in prefixes.split()
            if self.mnemonic.startswith(prefix)
        ]
        kind = max(found)[1] if found else "other"
        return f"masked {kind}" if self.masked else kind


def parse_form(mnemonic: str, operands: str) -> Form | None:
    """The form of an instruction as objdump shows it; None if it has no vector register."""
    words, depth, current = [], 0, ""
    for character in operands.partition("#")[0].partition("<")[0].strip():
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            words.append(current)
            current = ""
        else:
            current += character
    words.append(current)
    width = next((name for name in ("zmm", "ymm", "xmm") if f"%{name}" in operands), None)
    if width is None:
        return None
    shape = tuple(
        word if word.startswith("$") else "k" if word.startswith("%k") else "r" if word.startswith("%r") else "v"
        for word in words
    )
    return Form(mnemonic, shape, width, "{%k" in words[-1])


def listing(forms: Iterable[Form]) -> str:
    """An assembly loop of ``forms``, none of which needs the result of another one nearby."""
    lines = []
    next_vector = next_mask = next_source = 0
    for form in forms:
        registers = (32 if form.width == "zmm" or form.masked or "k" in form.operands else 16) - SOURCES
        words = []
        for operand in form.operands[:-1]:
            if operand == "v":
                words.append(f"%{form.width}{next_source % SOURCES}")
                next_source += 1
            else:
                words.append({"k": "%k1", "r": "%rax"}.get(operand, operand))
        if form.operands[-1] == "k":
            words.append(f"%k{2 + next_mask % 6}")
            next_mask += 1
        else:
            words.append(f"%{form.width}{SOURCES + next_vector % registers}")
            next_vector += 1
        mask = "{%k1}" if form.masked else ""
        lines.append(f"    {form.mnemonic} {', '.join(words)}{mask}")
    return "\n".join(
        (
            ".text",
            ".globl loop",
            ".type loop, @function",
            "loop:",
            "1:",
            *lines,
            "    dec %rdi",
            "    jnz 1b",
            "    vzeroupper",
            "    ret",
            '.section .note.GNU-stack,"",@progbits',
            "",
        )
    )


def mixed(mix: Mapping[Form, float], size: int = BLOCK) -> list[Form]:
    """``size`` instructions in the proportions of ``mix``, each form spread as evenly as possible."""
    total = sum(mix.values())
    due: Counter[Form] = Counter()
    block = []
    for _ in range(size):
        for form, count in mix.items():
            due[form] += count / total  # type: ignore[assignment]  # Counter is typed for int
        form = max(due, key=lambda one: (due[one], one))
        due[form] -= 1
        block.append(form)
    return block


def cycles_per_instruction(forms: list[Form], clocked: Callable[[Callable[[], float]], tuple[float, float]]) -> float:
    """Core cycles for each instruction of a loop of ``forms``. ``clocked``: as in Counting."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "loop.s", Path(folder) / "loop.so"
        source.write_text(listing(forms), encoding="ascii")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-o", library, source], check=True)
        loop = ctypes.CDLL(str(library)).loop
    loop.argtypes = [ctypes.c_uint64]
    loop(TURNS)  # the processor switches its vector units on

    def run() -> float:
        began = time.thread_time()
        loop(TURNS)
        return (time.thread_time() - began) / (TURNS * len(forms))

    measured = []
    for _ in range(REPEATS):
        seconds, clock = clocked(run)
        measured.append(seconds * clock)
    return min(measured)
