"""The documentation as tests read it: its pages, their tables and quoted texts, and the texts in the code."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "quantus_miner"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "systemd").glob("*.md")])
}


def tables(page: str, *header: str) -> list[list[list[str]]]:
    """The rows of each table of ``page`` with that header."""
    lines = PAGES[page].splitlines()
    found = []
    for number, line in enumerate(lines):
        if line == f"| {' | '.join(header)} |":
            body = itertools.takewhile(lambda row: row.startswith("|"), lines[number + 2 :])
            found.append([[cell.strip() for cell in row[1:-1].split(" | ")] for row in body])
    assert all(len(row) == len(header) for rows in found for row in rows), f"{page}: {header}"
    return found


def table(page: str, *header: str) -> list[list[str]]:
    """The rows of the one table of ``page`` with that header."""
    found = tables(page, *header)
    assert len(found) == 1, f"{page}: {len(found)} tables with the header {header}"
    return found[0]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def code(cell: str) -> str:
    (only,) = codes(cell)
    return only


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def by_first(rows: list[list[str]]) -> dict[str, list[str]]:
    """Rows by the code in their first cell, each of them once."""
    keyed = {code(row[0]): row[1:] for row in rows}
    assert len(keyed) == len(rows), "a row is there twice"
    return keyed


class Template(tuple[str, ...]):
    """A text of the code: what it has before, between and after the values that are filled in."""

    __slots__ = ()

    def matches(self, text: str) -> bool:
        """Whether ``text`` is this one, each value at least one character."""
        if len(self) == 1:
            return text == self[0]
        if not text.startswith(self[0]):
            return False
        place = len(self[0])
        for part in self[1:-1]:
            found = text.find(part, place + 1)
            if found < 0:
                return False
            place = found + len(part)
        return text.endswith(self[-1]) and len(text) - len(self[-1]) > place


def is_call(node: ast.AST, names: tuple[str, ...]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


@functools.cache
def templates(path: Path = SOURCE, calls: tuple[str, ...] = ()) -> list[Template]:
    """The texts of a file or a folder; only those in calls of these names, if any."""
    if path.is_dir():
        return [template for each in sorted(path.glob("**/*.py")) for template in templates(each, calls)]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    roots = [node for node in ast.walk(tree) if not calls or is_call(node, calls)]
    nodes = [node for root in roots for node in ast.walk(root)] if calls else roots
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = [
        _template(node.values if isinstance(node, ast.JoinedStr) else [node])
        for node in nodes
        if id(node) not in inner and isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    # One of little more than values would match anything.
    return [template for template in found if len(re.sub(r"[^a-z]", "", "".join(template))) >= 6]


def _template(values: list[ast.expr]) -> Template:
    parts = [""]
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            first, *others = re.split(r"%(?:[sdgrx]|\.\df)", value.value)
            parts[-1] += first
            parts += others
        else:
            parts.append("")
    return Template(parts)
