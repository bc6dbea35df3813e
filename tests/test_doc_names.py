"""What the documentation names, such as links, files, functions, imports and commands, is there."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from typing import TYPE_CHECKING

import click
import pytest

from quantus_miner.cli import cli

from .pages import PAGES, ROOT, SOURCE, by_first, code, codes, fenced, table, tables

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.glob("**/*.py")))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(path.read_text(encoding="utf-8")), f"{page}: {target}"


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for name in codes(prose):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(\.(py|cpp|hpp|h|md|toml|txt|json)|/)", name):
            there = any((base / name).exists() for base in (ROOT, SOURCE))
            assert there or f'"{name}"' in PYTHON, f"{page}: {name} is no file, nor one that the miner writes"


def test_the_functions_of_the_job_flow_exist() -> None:
    found = tables("docs/implementation/job-flow.md", "step", "file", "function", "what happens")
    assert len(found) == 3
    for _, file, function, _ in itertools.chain(*found):
        path = next(base / code(file) for base in (SOURCE, ROOT) if (base / code(file)).exists())
        names = _functions(path) if path.suffix == ".py" else re.findall(r"\b(\w+)\(", path.read_text("utf-8"))
        assert code(function) in names, f"{code(file)}: {code(function)}"


def _functions(path: Path) -> list[str]:
    """Functions as ``name`` and methods as ``Class.name``."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef):
            names += [
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
    return names


def test_the_locks_of_the_job_flow_exist() -> None:
    rows = table("docs/implementation/job-flow.md", "lock", "guards", "held")
    named = [codes(row[0])[0] for row in rows if codes(row[0])]
    assert "Miner._lock" in named
    for lock in named:
        owner, attribute = lock.split(".")
        assert f"class {owner}" in PYTHON, lock
        assert f"self.{attribute} = threading." in PYTHON, lock


def _contracts() -> tuple[list[list[str]], list[tuple[list[str], list[str]]]]:
    """The layers, top first, and who must not import whom, as ``pyproject.toml`` has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers, forbidden = [], []
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers":
            layers += [layer.split(" | ") for layer in contract["layers"]]
        else:
            both = (contract["source_modules"], contract["forbidden_modules"])
            sources, never = ([name.removeprefix("quantus_miner.") for name in names] for names in both)
            forbidden.append((sources, never))
    return layers, forbidden


def test_the_layers_of_both_pages_are_those_that_are_checked() -> None:
    layers, _ = _contracts()
    assert [codes(row[0]) for row in table("docs/architecture.md", "layer", "what it holds")] == layers
    assert [line.split(" | ") for block in fenced("CONTRIBUTING.md", "text") for line in block.splitlines()] == layers


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_forbidden_imports_of_both_pages_are_those_that_are_checked(page: str) -> None:
    _, forbidden = _contracts()
    rows = table(page, "modules", "never import")
    assert [(codes(modules), codes(never)) for modules, never in rows] == forbidden


def test_every_implementation_note_is_in_the_index() -> None:
    linked = set(re.findall(r"^\| \[(\S+)\]", PAGES["docs/implementation/README.md"], re.MULTILINE))
    pages = {path.name for path in (ROOT / "docs" / "implementation").glob("*.md")}
    assert linked == pages - {"README.md"}


def test_the_readme_names_every_command_and_no_other() -> None:
    rows = by_first(table("README.md", "command", "what it does"))
    assert set(rows) == {f"quantus-miner {name}" for name in cli.commands}


@pytest.mark.parametrize("target", ["run", "test"])
def test_the_readme_names_the_two_commands(target: str) -> None:
    assert re.search(rf"^make {target}\b", PAGES["README.md"], re.MULTILINE)
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_commands_in_examples_exist(page: str) -> None:
    """In every shell line that calls quantus-miner, the subcommand and its flags are the command line's own."""
    for line in re.findall(r"^(?:\$ )?(?:\S+=\S* )*(?:\S*/)?quantus-miner( .*)?$", _shell(page), re.MULTILINE):
        words = re.split(r"[#|]", line)[0].split()
        name = words[0] if words and not words[0].startswith("-") else "serve"
        assert name in cli.commands, f"{page}: {line}"
        command = cli.commands[name]
        if isinstance(command, click.Group) and words[1] in command.commands:
            command = command.commands[words[1]]
        known = {option for part in command.params for option in part.opts}
        assert {word for word in words if word.startswith("-")} <= known, f"{page}: {line}"


def _shell(page: str) -> str:
    blocks = fenced(page, "(?:sh|console|text)")
    return "\n".join(re.sub(r"\\\n\s*", "", block) for block in blocks)
