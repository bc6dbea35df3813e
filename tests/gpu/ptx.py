"""Runs the PTX that NVRTC makes of a kernel, one thread at a time, on machines without a card.

The instructions are translated to Python, one statement each. Only what our kernels use is known; anything else is a
KeyError or a ValueError. Registers are Python variables that hold unsigned integers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = {32: 2**32 - 1, 64: 2**64 - 1}


@dataclass
class Memory:
    """Constant tables and one global buffer of 32-bit words, at ``BUFFER``."""

    BUFFER = 1 << 40
    tables: dict[int, bytes] = field(default_factory=dict)  # by address
    words: list[int] = field(default_factory=list)

    def load(self, address: int, size: int) -> int:
        """``size`` bytes of a table."""
        base = max(start for start in self.tables if start <= address)
        data = self.tables[base][address - base : address - base + size]
        assert len(data) == size, "a load outside a table"
        return int.from_bytes(data, "little")

    def store(self, address: int, value: int) -> None:
        """A word of the buffer."""
        index, rest = divmod(address - self.BUFFER, 4)
        assert rest == 0
        assert 0 <= index < len(self.words)
        self.words[index] = value & MASK[32]

    def increment(self, address: int, value: int) -> int:
        """An atomic addition; what was there before."""
        index = (address - self.BUFFER) // 4
        before = self.words[index]
        self.store(address, before + value)
        return before


def _signed(value: str, bits: int) -> str:
    return f"(({value} ^ {1 << bits - 1}) - {1 << bits - 1})"


def _arithmetic(op: str, bits: int) -> Callable[..., str]:
    """``d = op(a, b, c)``, truncated."""
    return lambda d, *arguments: f"{d} = ({op.format(*arguments)}) & {MASK[bits]}"


def _carry_out(op: str) -> Callable[..., str]:
    """32 bits; the carry, or the borrow, of what ``op`` gives."""
    return lambda d, *arguments: f"t = {op.format(*arguments)}; {d} = t & {MASK[32]}; carry = t >> 32 & 1"


_BINARY = {"add": "{0} + {1}", "sub": "{0} - {1}", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def _statement(opcode: str, operands: list[str]) -> str:
    """One instruction in Python."""
    name, *kinds = opcode.split(".")
    bits = int(kinds[-1][1:]) if kinds and kinds[-1][1:].isdigit() else 0
    match name:
        case "mov" if operands[0].startswith("{"):
            low, high = operands[0].strip("{}").split(",")
            return f"{low} = {operands[1]} & {MASK[32]}; {high} = {operands[1]} >> 32"
        case "mov" if operands[1].startswith("{"):
            low, high = operands[1].strip("{}").split(",")
            return f"{operands[0]} = {high} << 32 | {low}"
        case "mov" | "cvta":
            return f"{operands[0]} = {operands[1]} & {MASK[64 if name == 'cvta' else bits]}"
        case "cvt":
            to, of = kinds
            assert to[0] in "ub"
            assert of[0] in "ub"
            return f"{operands[0]} = {operands[1]} & {MASK[int(to[1:])]}"
        case "add" | "addc" | "sub" | "subc":
            op = "{0} + {1}" if name.startswith("add") else "{0} - {1}"
            if name.endswith("c"):
                op += " + carry" if name == "addc" else " - carry"
            if "cc" in kinds:
                assert bits == 32
                return _carry_out(op)(*operands)
            return _arithmetic(op, bits)(*operands)
        case "and" | "or" | "xor":
            return _arithmetic(_BINARY[name], bits)(*operands)
        case "not":
            return f"{operands[0]} = {operands[1]} ^ {MASK[bits]}"
        case "neg":
            return _arithmetic("-{0}", bits)(*operands)
        case "shl":
            return _arithmetic("{0} << {1}", bits)(*operands)
        case "shr":
            assert kinds[-1][0] in "ub"
            return f"{operands[0]} = {operands[1]} >> {operands[2]}"
        case "mul" if kinds[0] == "wide":
            a, b = (_signed(x, 32) if kinds[1] == "s32" else f"({x} & {MASK[32]})" for x in operands[1:])
            return f"{operands[0]} = {a} * {b} & {MASK[64]}"
        case "mul" if kinds[0] == "lo":
            return _arithmetic("{0} * {1}", bits)(*operands)
        case "mad" | "madc" if bits == 32:
            product = "({0} * {1} >> 32) + {2}" if "hi" in kinds else f"({{0}} * {{1}} & {MASK[32]}) + {{2}}"
            product += " + carry" if name == "madc" else ""
            return (_carry_out(product) if "cc" in kinds else _arithmetic(product, 32))(*operands)
        case "setp":
            a, b = operands[1:]
            if kinds[-1][0] == "s" and kinds[0] not in ("eq", "ne"):
                a, b = _signed(a, bits), _signed(b, bits)
            return f"{operands[0]} = {a} {_COMPARE[kinds[0]]} {b}"
        case "selp":
            return f"{operands[0]} = {operands[1]} if {operands[3]} else {operands[2]}"
        case "min" | "max":
            assert kinds[-1][0] == "u"
            return f"{operands[0]} = {name}({operands[1]}, {operands[2]})"
        case "bfi":
            mask = f"((1 << {operands[4]}) - 1 << {operands[3]})"
            return f"{operands[0]} = {operands[2]} & ~{mask} | {operands[1]} << {operands[3]} & {mask}"
        case "prmt":
            return f"{operands[0]} = prmt({', '.join(operands[1:])})"
        case "ld" if kinds[0] == "param":
            return f"{operands[0]} = {operands[1].strip('[]')} & {MASK[bits]}"
        case "ld" if kinds[0] == "const":
            return f"{operands[0]} = memory.load({operands[1].strip('[]')}, {bits // 8})"
        case "st" if kinds[0] == "global":
            address, values = operands[0].strip("[]"), operands[1].strip("{}").split(",")
            assert bits == 32
            return "; ".join(f"memory.store({address} + {4 * i}, {value})" for i, value in enumerate(values))
        case "atom" if kinds[-2:] == ["add", "u32"]:
            return f"{operands[0]} = memory.increment({operands[1].strip('[]')}, {operands[2]})"
    raise ValueError(f"no translation for {opcode}")


def _prmt(a: int, b: int, selector: int) -> int:
    data = (b << 32 | a).to_bytes(8, "little")
    return int.from_bytes(bytes(data[selector >> 4 * i & 7] for i in range(4)), "little")


def _operand(text: str, bits: int) -> str:
    """A register, number or label as Python; negative numbers as the unsigned ones that they stand for."""
    if re.fullmatch(r"-\d+", text):
        return str(int(text) & MASK[bits])
    return re.sub(r"[%$.]", "_", re.sub(r"^(0x[0-9a-fA-F]+)U$", r"\1", text.replace(" ", "")))


def kernels(ptx: str, threads: int) -> dict[str, Callable[..., None]]:
    """The entry points: each takes (thread, block, blocks, memory, parameters ...) and runs one thread.

    ``threads``: of a block.
    """
    tables: dict[str, bytes] = {}
    for name, data in re.findall(r"^\.(?:const|global)\s.*?(\w+)\[\d+\] = \{(.*?)\};", ptx, re.MULTILINE):
        tables[name] = bytes(map(int, data.split(",")))
    addresses = {name: number << 20 for number, name in enumerate(tables, 1)}
    space: dict[str, Any] = {"prmt": _prmt, "_ntid_x": threads, **addresses}
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\).*?\n\{\n(.*?)\n\}", ptx, re.DOTALL)
    for name, parameters, body in entries:
        exec(_python(name, re.findall(r"\.param\s[^,]*?(\w+)\s*(?:,|$)", parameters), body), space)  # noqa: S102 - our own text

    def bind(name: str) -> Callable[..., None]:
        def kernel(thread: int, block: int, blocks: int, memory: Memory, *arguments: int) -> None:
            memory.tables = {addresses[table]: data for table, data in tables.items()}
            space[name](thread, block, blocks, memory, *arguments)

        return kernel

    return {name: bind(name) for name, _, _ in entries}


def _python(name: str, parameters: list[str], body: str) -> str:
    """A function with one branch for each basic block."""
    blocks: list[list[str]] = [[]]
    labels: dict[str, int] = {}
    for piece in re.split(r"[;:]", re.sub(r"//.*", "", body)):
        text = piece.strip().lstrip("{} \t\n")
        if not text or text.startswith("."):
            continue
        if text.startswith("$"):
            labels[text] = len(blocks)
            blocks.append([])
            continue
        guard, opcode, rest = re.fullmatch(r"(?:@(!?[%\w]+)\s+)?([\w.]+)\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        condition = f"if {_operand(guard.lstrip('!'), 32)} == {not guard.startswith('!')}: " if guard else ""
        if opcode.startswith("bra"):
            blocks[-1].append(f"{condition}block = <{rest}>; continue")
        elif opcode == "ret":
            blocks[-1].append(f"{condition}return")
        else:
            size = re.search(r"(\d+)$", opcode)
            bits = int(size[1]) if size else 64
            operands = [_operand(operand, bits) for operand in re.findall(r"\{[^}]*\}|[^,\s{][^,{]*", rest)]
            blocks[-1].append(condition + _statement(opcode, operands))
    lines = [f"def {name}(_tid_x, _ctaid_x, _nctaid_x, memory, {', '.join(parameters)}):", " block = carry = 0"]
    lines.append(" while True:")
    for number, statements in enumerate(blocks):
        lines.append(f"  if block == {number}:")
        lines += [re.sub(r"<(\$.*?)>", lambda match: str(labels[match[1]]), f"   {line}") for line in statements]
        lines.append(f"   block = {number + 1}")
    return "\n".join(lines)
