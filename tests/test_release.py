"""What a release refuses, and that a wheel is what it should be: the same bytes every time, for every libc."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "packaging" / "release"


def git(checkout: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", "-C", checkout, *identity, *arguments], check=True, capture_output=True)  # noqa: S607


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of version 1.2.3, with the scripts of this one."""
    folder = tmp_path / "checkout"
    shutil.copytree(SCRIPTS, folder / "packaging" / "release", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__/\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "quantus-miner"\nversion = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - unreleased\n")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "A change")


def read(checkout: Path) -> str:
    """What it says of the commit that is checked out."""
    program = """
import source
try:
    print(source.read().version, source.read().tagged)
except source.ReleaseError as error:
    print(error)
"""
    environ = {
        "PYTHONPATH": str(checkout / "packaging" / "release"),
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_without_a_tag_is_a_rehearsal(checkout: Path) -> None:
    assert read(checkout) == "1.2.3 False"
    git(checkout, "tag", "another-name")
    assert read(checkout) == "1.2.3 False"


def test_a_tagged_commit_is_released(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("## [1.2.3] - 2026-01-31\n")
    commit(checkout)
    git(checkout, "tag", "v1.2.3")
    assert read(checkout) == "1.2.3 True"


@pytest.mark.parametrize("name", ["pyproject.toml", "a new file"])
def test_changes_are_refused(checkout: Path, name: str) -> None:
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert read(checkout).startswith("the working tree has changes: ")
    assert name in read(checkout)


def test_a_tag_that_is_not_the_version_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.4")
    assert read(checkout) == "HEAD is tagged v1.2.4, but pyproject.toml says 1.2.3; make them the same"


def test_a_version_that_was_released_before_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.3")
    commit(checkout)
    expected = "v1.2.3 is another commit than HEAD; check it out, or raise the version in pyproject.toml"
    assert read(checkout) == expected


def test_a_version_that_the_changelog_does_not_have_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("## [1.2.2] - 2026-01-31\n")
    commit(checkout)
    assert read(checkout) == "CHANGELOG.md has no section '## [1.2.3] - DATE'; add it"


def test_a_tagged_version_without_a_date_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.3")
    expected = "CHANGELOG.md dates 1.2.3 'unreleased', but it is tagged; write the date and tag again"
    assert read(checkout) == expected


WHEELS = """
import sys
from pathlib import Path

import artefacts, audit, source

architecture, folder = sys.argv[1], Path(sys.argv[2])
commit = source.Source(source.version(), "HEAD", 1_700_000_000, False)
made = []
for build in (folder / "first", folder / "another folder"):
    artefacts.export(commit, build / "checkout")
    sdist = artefacts.build_sdist(commit, build / "checkout", build)
    wheel = artefacts.build_wheel(commit, sdist, architecture, build / "build", build)
    made.append((sdist.read_bytes(), wheel.read_bytes()))
assert made[0] == made[1], "two builds differ"
audit.check_wheel(wheel)
print("audited", wheel.name)
"""


@pytest.mark.timeout(400)
@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-g++") or not (ROOT / ".git").exists(),
    reason="needs a git checkout and an aarch64 cross compiler; on Debian: apt install g++-aarch64-linux-gnu",
)
def test_two_builds_are_the_same_and_pass_the_audit(tmp_path: Path) -> None:
    """The wheel for aarch64, which is built in a third of the time; ``make release`` builds both."""
    done = subprocess.run(
        [sys.executable, "-c", WHEELS, "aarch64", tmp_path],
        env={
            "PYTHONPATH": str(SCRIPTS),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "_aarch64.whl" in done.stdout
