"""An installation of the locked versions: its bill of materials, and its licences."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import bundle
import sbom
from artefacts import run
from source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from source import Source

LICENCES: Final = (
    "Apache",
    "BSD",
    "ISC",
    "MIT",
    "Mozilla Public License 2.0",
    "MPL-2.0",
    "PSF",
    "Python Software Foundation",
)
"""Parts of the names of licences under which the miner may be shipped together with its dependencies."""


def make(wheels: Path, folder: Path) -> Path:
    """Install from ``wheels`` what every package has into a venv in ``folder``, and return its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-compile")
    run(*pip, "--find-links", wheels, "--only-binary=:all:", f"quantus-miner[{','.join(bundle.INCLUDED)}]")
    return python


def describe(python: Path, source: Source, output: Path) -> None:
    """Write the bill of materials and the licences of an installation into ``output``.

    Raises ReleaseError if the bill is not valid, or a licence is not one of LICENCES.
    """
    bill = output / f"quantus-miner-{source.version}.cdx.json"
    run(
        *("cyclonedx-py", "environment", "--output-reproducible", "--spec-version", sbom.VERSION.to_version()),
        *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "application", "--output-file", bill, python),
    )
    sbom.validate(bill.read_text(encoding="utf-8"), bill.name)
    report = ("pip-licenses", f"--python={python}", "--from=mixed", "--with-urls", "--format=markdown")
    allowed = f"--allow-only={';'.join(LICENCES)}"
    run(*report, "--partial-match", allowed, f"--output-file={output / 'licences.md'}")
