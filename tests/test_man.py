"""The man page."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from quantus_miner.cli import cli, man
from quantus_miner.setting_table import NOT_OF, SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

PAGE = man.page(dt.date(2026, 11, 27))


def typed(roff: str) -> str:
    """What a reader sees, with the spaces between words that roff puts there."""
    text = re.sub(r"\\f[BIR]|\\:|\\&", "", roff)
    for code, character in (
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(ga", "`"),
        (r"\(ha", "^"),
        (r"\(ti", "~"),
        (r"\e", "\\"),
    ):
        text = text.replace(code, character)
    return " ".join(text.split())


def section(command: str) -> str:
    return PAGE.split(f"\n.SS {command}\n")[1].split("\n.S")[0]


def test_every_command_has_its_options() -> None:
    for name, command in cli.commands.items():
        text = section(name.replace("-", r"\-"))
        shown = set(
            re.findall(r"(?<![\w-])--[a-z][\w-]*", typed("\n".join(re.findall(r"^\.TP\n(.*)", text, re.MULTILINE))))
        )
        options = {
            flag for part in command.params for flag in (*part.opts, *part.secondary_opts) if flag.startswith("--")
        }
        if name == "doctor":
            assert "All options of serve can be given, too." in text
            options = {"--json"}
        assert shown == options, name
    assert isinstance(cli.commands["service"], click.Group)
    assert r"\fB\-\-dedicated\fR" in section("service print")


def test_settings_are_described_by_their_table() -> None:
    for command, unused in NOT_OF.items():
        text = typed(section(command))
        for setting in SETTINGS:
            default = "unset" if setting.default is None else setting.default
            described = f"{setting.help} [env: {', '.join(setting.environment)}; default: {default}]" in text
            assert described == (setting.name not in unused), (command, setting.name)


def test_no_line_of_text_is_read_as_a_command_of_roff() -> None:
    assert list(man._text(".nf is text. 'so is this \\n-`^~")) == [r"\&.nf is text. \(aqso is this \en\-\(ga\(ha\(ti"]
    assert PAGE.isascii()
    assert {line.split()[0] for line in PAGE.splitlines() if line.startswith(".")} == {
        ".TH", ".ad", ".nh", ".SH", ".SS", ".B", ".PP", ".TP"
    }  # fmt: skip
    assert not [line for line in PAGE.splitlines() if line.startswith("'") or line != line.strip() or not line]


def test_the_module_prints_it_with_the_date_of_the_package() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "quantus_miner.cli.man"],
        env=os.environ | {"SOURCE_DATE_EPOCH": "1795737600"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == man.page(dt.date(2026, 11, 27))


LINTERS = {
    "man": ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"],
    "groff": ["groff", "-man", "-Tutf8", "-ww", "-z"],
    "mandoc": ["mandoc", "-T", "lint"],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_linters_have_no_complaint(linter: str, tmp_path: Path) -> None:
    if shutil.which(linter) is None:
        pytest.skip(f"{linter} is not installed")
    path = tmp_path / "quantus-miner.1"
    path.write_text(PAGE)
    environ = os.environ | {"LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    ended = subprocess.run(
        [*LINTERS[linter], str(path)], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    if linter == "mandoc":
        assert ended.stdout == ""
