"""The container image: run as users run it, read-only and without any capability."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from ..rig_stand_ins import WALLET
from ..terminal import press_when_drawn
from ..test_compose import compose_file

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE: Final = Path(__file__).parent.parent.parent / "build/oci/quantus-miner.tar"
USER: Final = 10001
STATE: Final = "/var/lib/quantus-miner"
MAX_BYTES: Final = 120_000_000
WAIT_S: Final = 60


class Image:
    """Its file system and its configuration."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(IMAGE) as archive:
            archive.extractall(folder, filter="data")
        (manifest,) = json.loads((folder / "manifest.json").read_text())
        self.config: dict[str, Any] = json.loads((folder / manifest["Config"]).read_text())["config"]
        self.root = folder / "root"
        self.root.mkdir()
        for layer in manifest["Layers"]:
            subprocess.run(["tar", "-xpf", folder / layer, "-C", self.root], check=True)  # noqa: S607


def mount(source: Path, destination: str, mode: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", mode]}


class Container:
    """A container of the image: a network of its own, a read-only root, no capability, a folder for its state."""

    def __init__(
        self,
        image: Image,
        folder: Path,
        *args: str,
        cpu: dict[str, Any] | None = None,
        beside: Container | None = None,
        **environ: str,
    ) -> None:
        """``beside``: a container whose network this one shares, and whose state it sees in /node."""
        self._name = f"quantus-miner-test-{uuid.uuid4()}"
        self._root = folder / "runc"
        bundle = folder / "bundle"
        self._state = folder / "state"
        bundle.mkdir()
        self._state.mkdir()
        os.chown(self._state, USER, USER)
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)  # noqa: S607
        spec = json.loads((bundle / "config.json").read_text())
        spec["root"] = {"path": str(image.root), "readonly": True}
        spec["process"] |= {
            "terminal": False,
            "user": dict.fromkeys(("uid", "gid"), USER),
            "args": [*image.config["Entrypoint"], *args],
            "env": [*image.config["Env"], *(f"{name}={text}" for name, text in environ.items())],
            "capabilities": {kind: [] for kind in spec["process"]["capabilities"]},
            "noNewPrivileges": True,
        }
        spec["mounts"].append(mount(self._state, STATE, "rw"))
        spec["linux"]["resources"]["cpu"] = cpu or {}
        if beside is not None:
            spec["mounts"].append(mount(beside._state, "/node", "ro"))
            state = json.loads(subprocess.check_output(beside._runc("state", beside._name)))
            (network,) = (kind for kind in spec["linux"]["namespaces"] if kind["type"] == "network")
            network["path"] = f"/proc/{state['pid']}/ns/net"
        (bundle / "config.json").write_text(json.dumps(spec))
        self.process = subprocess.Popen(
            self._runc("run", "--bundle", str(bundle), self._name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[str] = []

    def _runc(self, *args: str) -> list[str]:
        return ["runc", "--root", str(self._root), *args]

    def wait_for(self, text: str) -> str:
        """The first line from now on with ``text`` in it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if text in line:
                return line
        raise AssertionError(self.log)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(
            self._runc("exec", self._name, *command), capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def stop(self) -> int:
        subprocess.run(self._runc("kill", self._name, "TERM"), check=True)
        rest, _ = self.process.communicate(timeout=WAIT_S)
        self.log += rest.splitlines()
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            subprocess.run(self._runc("delete", "--force", self._name), check=True)
            self.process.communicate(timeout=WAIT_S)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if os.geteuid() != 0 or not IMAGE.exists():
        pytest.fail("run these as root with `make test-packages`, which makes what they need")
    if not shutil.which("runc"):
        pytest.fail("'runc' is missing; on Debian and Ubuntu: apt install runc")
    return Image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def running(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Container(image, tmp_path_factory.mktemp("running"), "--workers=1") as container:
        container.wait_for("Server starting on ")
        yield container


def health(image: Image, container: Container) -> subprocess.CompletedProcess[str]:
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    return container.run(*command)


def test_it_is_small_and_has_no_shell_and_nothing_that_another_user_may_change(image: Image) -> None:
    files = [path for path in image.root.rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_size for path in files if path.is_file()) < MAX_BYTES
    assert not [
        path for path in files if path.is_file() and path.name in ("sh", "bash", "busybox", "dpkg", "apt", "pip")
    ]
    assert not [path for path in files if path.stat().st_mode & 0o6022]
    owned = [path for path in files if path.stat().st_uid != 0]
    assert [f"/{path.relative_to(image.root)}" for path in owned] == [STATE]


def test_it_runs_as_an_ordinary_user_and_is_healthy(image: Image, running: Container) -> None:
    assert image.config["User"] == f"{USER}:{USER}"
    assert health(image, running).returncode == 0
    status = (image.config["Entrypoint"][0], "doctor")
    said = running.run(*status).stdout
    assert "WRONG" not in said
    assert "a miner answers on 127.0.0.1:9833" in said
    assert not [line for line in running.log if " WARN " in line or " ERROR " in line]


def test_other_commands_work_in_it(image: Image, running: Container) -> None:
    program = image.config["Entrypoint"][0]
    assert running.run(program, "pause").stdout.startswith("Paused")
    assert running.run(program, "resume").stdout.startswith("Resumed")


def test_top_shows_it(image: Image, running: Container) -> None:
    top = running._runc(
        "exec", "--tty", "--env=TERM=xterm-256color", running._name, image.config["Entrypoint"][0], "top"
    )
    assert press_when_drawn(top, "cpu-fast", "q") == 0


def test_it_is_unhealthy_without_a_miner(image: Image, running: Container, tmp_path: Path) -> None:
    with Container(image, tmp_path, MINER_PORT="9999", MINER_BIND="0.0.0.0") as container:  # noqa: S104
        container.wait_for("Server starting on 0.0.0.0:9999")
        assert health(image, container).returncode == 0
    _, *command = image.config["Healthcheck"]["Test"]
    done = running.run(
        "/usr/bin/python3",
        "-Ic",
        f"import os; os.environ['MINER_PORT'] = '9999'; os.execv({command[0]!r}, {command!r})",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:9999/health: ")


@pytest.mark.parametrize("cpu", [{"quota": 100_000, "period": 100_000}, {"cpus": "0"}])
def test_limits_of_the_container_are_counted(image: Image, cpu: dict[str, Any], tmp_path: Path) -> None:
    with Container(image, tmp_path, "--workers=99", cpu=cpu) as container:
        container.wait_for("Requested 99 workers exceeds available logical CPUs in cpuset (1). Clamping to 1.")
        container.wait_for("Server starting on ")
        assert container.stop() == 0
    assert "Stopped: " in container.log[-1]


def test_the_miner_of_the_compose_file_mines_for_its_node(image: Image, tmp_path: Path) -> None:
    services = compose_file("compose.node.yml")["services"]
    environ = compose_file("compose.yml")["services"]["miner"]["environment"] | services["miner"]["environment"]
    for name in ("node", "miner"):
        (tmp_path / name).mkdir()
    with Container(image, tmp_path / "node", *services["node"]["command"]) as node:
        node.wait_for("dev-node: ")
        plain = {name: text for name, text in environ.items() if not text.startswith("$")}
        with Container(image, tmp_path / "miner", beside=node, **plain) as miner:
            miner.wait_for("Connected to node 127.0.0.1:9833")
            node.wait_for("block    2")
            assert miner.stop() == 0


def test_a_development_node_runs_in_it(image: Image, tmp_path: Path) -> None:
    args = ("dev-node", "--quic", "--blocks=2", "--difficulty=1000", f"--base-path={STATE}")
    with Container(image, tmp_path, *args, TMPDIR=STATE) as container:
        container.wait_for(" 0 invalid, 0 stale")
        container.process.communicate(timeout=WAIT_S)
    assert container.process.returncode == 0


def test_a_hub_runs_in_it(image: Image, tmp_path: Path) -> None:
    args = ("hub", "--nats-port=4222", "--pool=stratum+tcp://127.0.0.1:1", f"--wallet={WALLET}")
    with Container(image, tmp_path, *args) as container:
        container.wait_for("Rigs can connect to port 4222 of 127.0.0.1; 0 are invited")
        program = image.config["Entrypoint"][0]
        assert container.run(program, "hub", "invite", "rig7", "--address", "127.0.0.1").stdout.startswith(
            "quantus-miner serve --hub tls://rig7."
        )
        assert container.stop() == 0
