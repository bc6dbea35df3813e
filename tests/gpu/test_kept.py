"""What is kept between runs: compiled kernels and what was tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantus_miner.gpu import binaries, tuning
from quantus_miner.gpu.device import Device

if TYPE_CHECKING:
    from pathlib import Path


def test_a_compiled_kernel_is_kept_until_anything_changes(tmp_path: Path) -> None:
    built: list[bytes] = []

    def build() -> bytes:
        built.append(b"\x7fELF%d" % len(built))
        return built[-1]

    def cached(*identity: str) -> bytes:
        return binaries.cached(tmp_path / "gpu", "cuda sm_89/x", identity, build)

    assert cached("source", "12.9") == cached("source", "12.9") == b"\x7fELF0"
    assert cached("source", "13.0") == b"\x7fELF1"
    (path,) = (tmp_path / "gpu").iterdir()
    for damage in (b"", b"x" * 10, path.read_bytes()[:-1], bytes(32) + path.read_bytes()[32:]):
        path.write_bytes(damage)
        assert cached("source", "13.0") == built[-1]
        assert cached("source", "13.0") == built[-1]
    assert len(built) == 6


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "gpu").write_text("a file, not a folder")
    assert binaries.cached(tmp_path / "gpu", "x", ("y",), lambda: b"z") == b"z"


def test_what_was_tuned_is_kept_for_the_device_and_its_driver(tmp_path: Path) -> None:
    card, newer = Device(0, "card", "gpu", None, "1"), Device(0, "card", "gpu", None, "2")
    assert tuning.load(tmp_path, "gpu-cuda", card) == tuning.BLOCKS
    tuning.save(tmp_path, "gpu-cuda", card, 16)
    tuning.save(tmp_path, "gpu-cuda", newer, 3)
    assert tuning.load(tmp_path, "gpu-cuda", card) == 16
    assert tuning.load(tmp_path, "gpu-cuda", newer) == 3
    assert tuning.load(tmp_path, "gpu-opencl", card) == tuning.BLOCKS
    for damage in (
        "",
        "[]",
        '{"gpu-cuda: card, 1": "x"}',
        '{"gpu-cuda: card, 1": 1000000}',
        "\u00e9",
        '{"gpu-cuda: card, 1": 8.0}',
        "[" * 5000,
    ):
        (tmp_path / "gpu" / "tuning.json").write_text(damage)
        blocks = tuning.load(tmp_path, "gpu-cuda", card)
        assert (type(blocks), blocks) == (int, tuning.BLOCKS)
