"""Instructions a nonce of the CUDA kernels, by kind, from their machine code; needs no card.

The blocks of a kernel and the ways between them come from the labels and branches of nvdisasm's listing, the loops from
the branches back. ``poseidon2.cl`` has three loops, one in another: nonces, rounds, and the internal rounds between two
of them. What the compiler makes of them is checked; anything else is a NotCountedError. Checked for sm_75, sm_80,
sm_86, sm_89, sm_90, sm_100 and sm_120, with NVRTC 12.9 and 13.5 and nvdisasm 13.5.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.counting import NotCountedError

LAYERS: Final = 14
"""Turns of the loop of rounds: layers between the 15 rounds with twelve S-boxes."""
PERMUTATIONS: Final = 2
INTERNAL: Final = 22
"""Internal rounds of a permutation."""

KINDS: Final = {
    "wide": re.compile(r"IMAD\.(WIDE|HI)"),
    "multiply": re.compile(r"IMAD|HFMA2"),
    "memory": re.compile(r"U?LDC|LD|ST|ATOM|RED"),
    "control": re.compile(r"BRA|CALL|EXIT|BSSY|BSYNC|BMOV|NOP|YIELD|VOTE|WARPSYNC|S2U?R|R2UR|U"),
    "light": re.compile(r"MOV|SEL|ISETP|VIADD"),
    "alu": re.compile(r""),
}
"""Of an opcode, the first that matches. wide: products of 64 bits; multiply: the multiplier's other work, moves too;
control: with the uniform datapath; light: what has an ALU of its own on sm_120."""

_LINE: Final = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_LABEL: Final = re.compile(r"^\s*(\.L_x_\d+):")
_TARGET: Final = re.compile(r"^(.*?)`\((\.L_x_\d+)\)$")
_JUMPS: Final = re.compile(r"BRA\b|CALL\.REL\.NOINC$")
_UNKNOWN: Final = re.compile(r"CALL|RET|BRX|JMP|JMX|BREAK|KILL")


@dataclass
class Block:
    """Instructions that run together, and the blocks that may run next, by their places in the listing."""

    opcodes: list[str] = field(default_factory=list)
    following: list[int] = field(default_factory=list)


class Loop(NamedTuple):
    """``header``: where it begins. ``latches``: where it goes back from. ``body``: all blocks, these among them."""

    header: int
    latches: frozenset[int]
    body: frozenset[int]


def disassemble(cubin: bytes) -> str:
    """Nvdisasm's listing. Raises NotCountedError where there is no nvdisasm, or no machine code."""
    if not cubin.startswith(b"\x7fELF"):
        raise NotCountedError("NVRTC does not know the card, and only the driver its machine code")
    tool = shutil.which("nvdisasm") or next(
        (str(path) for path in Path(sysconfig.get_path("platlib")).glob("nvidia/*/bin/nvdisasm")), None
    )
    if tool is None:
        raise NotCountedError(
            "nvdisasm is missing; pip install nvidia-cuda-nvdisasm, or put the CUDA toolkit's on PATH"
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def instructions(listing: str, entry: str) -> Counter[str]:
    """Instructions a nonce of the kernel ``entry``, by kind. Raises NotCountedError if it has other loops."""
    blocks = parse(listing, entry)
    total: Counter[str] = Counter()
    for number, times in _weights(blocks).items():
        for kind, count in tally(blocks[number].opcodes).items():
            total[kind] += times * count
    return total


def clocks(counted: Counter[str], arch: str) -> dict[str, int]:
    """Clock cycles of a quarter multiprocessor for 32 nonces, by its parts; the largest is the least that it takes.

    An instruction takes 1 to be issued, 2 in the ALU or the multiplier, 4 where it is wide, as measured on cards of
    sm_80, sm_89, sm_90 and sm_120 by https://github.com/cicuvc/nvidia-sass-document (notes/sm90, notes/sm120). Nothing
    is known of IADD.64, which is taken for one of the ALU.
    """
    busy = {
        "issue": counted.total(),
        "alu": 2 * counted["alu"],
        "multiplier": 2 * counted["multiply"] + 4 * counted["wide"],
    }
    if arch == "sm_120":
        busy["light"] = counted["light"]
    else:
        busy["alu"] += 2 * counted["light"]
    return busy


def tally(opcodes: list[str]) -> Counter[str]:
    """How many of each kind."""
    return Counter(next(kind for kind, pattern in KINDS.items() if pattern.match(opcode)) for opcode in opcodes)


def parse(listing: str, entry: str) -> list[Block]:
    """The blocks of the function ``entry``; the first is where it begins."""
    blocks = [Block()]
    labels: dict[str, int] = {}
    targets: dict[int, str] = {}
    falls = True  # from the last block into the next
    for line in _lines(listing, entry):
        if label := _LABEL.match(line):
            falls = _begin(blocks, falls=falls)
            labels[label[1]] = len(blocks) - 1
        elif instruction := _LINE.match(line):
            predicate, opcode, operands = instruction.groups()
            blocks[-1].opcodes.append(opcode)
            target = _TARGET.match(operands)
            if _JUMPS.match(opcode) and target:
                # A call from which nothing returns is a jump, for there are no returns at all.
                targets[len(blocks) - 1] = target[2]
                falls = _begin(blocks, falls=predicate is not None or target[1] != "")
            elif opcode == "EXIT":
                falls = _begin(blocks, falls=predicate is not None)
            elif _JUMPS.match(opcode) or _UNKNOWN.match(opcode):
                raise NotCountedError(f"{entry} has an instruction {opcode} {operands}")
    for number, name in targets.items():
        blocks[number].following.append(labels[name])
    return blocks


def _lines(listing: str, entry: str) -> list[str]:
    _, found, rest = listing.partition(f"\n.text.{entry}:\n")
    if not found:
        raise NotCountedError(f"nvdisasm lists no {entry}")
    return re.split(r"^\.text\.|^\t?\.section", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines()


def _begin(blocks: list[Block], *, falls: bool) -> bool:
    """A new block, which the last one, where it ``falls``, runs into; whether the new one falls: until it jumps."""
    if falls:
        blocks[-1].following.append(len(blocks))
    blocks.append(Block())
    return True


def _dominators(blocks: list[Block]) -> dict[int, frozenset[int]]:
    """For each block that can be reached, those that every way to it passes, itself among them."""
    reached, queue = {0}, [0]
    while queue:
        for block in blocks[queue.pop()].following:
            if block not in reached:
                reached.add(block)
                queue.append(block)
    before: dict[int, set[int]] = {block: set() for block in reached}
    for block in reached:
        for following in blocks[block].following:
            before[following].add(block)
    found = dict.fromkeys(reached, frozenset(reached)) | {0: frozenset({0})}
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {0}):
            passed = frozenset.intersection(*(found[other] for other in before[block])) | {block}
            changed |= passed != found[block]
            found[block] = passed
    return found


def _loops(blocks: list[Block], dominators: dict[int, frozenset[int]]) -> list[Loop]:
    """All natural loops."""
    latches: dict[int, set[int]] = {}
    for block, passed in dominators.items():
        for header in passed.intersection(blocks[block].following):
            latches.setdefault(header, set()).add(block)
    found = []
    for header, ends in latches.items():
        body, queue = {header}, list(ends)
        while queue:
            block = queue.pop()
            if block not in body:
                body.add(block)
                queue += [other for other in dominators if block in blocks[other].following]
        found.append(Loop(header, frozenset(ends), frozenset(body)))
    return found


def _weights(blocks: list[Block]) -> dict[int, int]:
    """How many times a nonce runs each block, hits apart."""
    dominators = _dominators(blocks)
    all_loops = _loops(blocks, dominators)
    nests = [
        (nonces, rounds, internal)
        for nonces in all_loops
        for rounds in all_loops
        for internal in all_loops
        if nonces.body > rounds.body > internal.body
    ]
    if len(nests) != 1:
        raise NotCountedError(f"{len(nests)} nests of three loops, not one")
    nonces, rounds, internal = nests[0]

    def always(block: int, loop: Loop) -> bool:
        """Whether every turn of ``loop`` runs ``block``."""
        return all(block in dominators[latch] for latch in loop.latches)

    exits = [block for block in rounds.body if not rounds.body.issuperset(blocks[block].following)]
    # The first S-boxes are taken out in front: a turn is layers, then S-boxes, then the end of the loop.
    if (
        len(exits) != 1
        or exits[0] in dominators[internal.header]
        or not all(always(block, internal) for block in internal.body)
    ):
        raise NotCountedError("the loops have other ends than expected")
    weights = {}
    for block in nonces.body:
        if block in internal.body:
            times = PERMUTATIONS * INTERNAL
        elif block not in rounds.body:
            times = int(always(block, nonces))
        elif always(block, rounds):
            times = LAYERS
        elif block in dominators[internal.header] or internal.header in dominators[block]:
            times = PERMUTATIONS
        else:
            times = 1  # the second layer between the permutations
        weights[block] = times
    return weights
