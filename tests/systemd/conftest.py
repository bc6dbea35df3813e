"""A Debian of its own, booted with systemd in a container, with the miner installed in it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).parent.parent.parent
UNIT: Final = "quantus-miner.service"
DROP_INS: Final = f"/etc/systemd/system/{UNIT}.d"
CGROUPS: Final = Path("/sys/fs/cgroup")
WAIT_S: Final = 60.0


class Machine:
    """The container. It sees the checkout at ``/src``, has only a loopback network, and forgets all at its end."""

    def __init__(self, root: Path, console: Path) -> None:
        self._console = console
        # Where controllers are those of cgroup v1: cgroups of its own, in which its systemd may set limits too.
        names = ("systemd", "unified", "cpu", "cpuset", "memory")
        mounts = [CGROUPS / name for name in names if (CGROUPS / name / "cgroup.procs").exists()]
        self._cgroups = [mount / f"quantus-miner-test-{os.getpid()}" for mount in mounts]
        for folder in self._cgroups:
            folder.mkdir()
            for file in folder.glob("cpuset.[cm]*s"):
                file.write_text((folder.parent / file.name).read_text())
        enter = "".join(f"echo $$ >{folder}/cgroup.procs && " for folder in self._cgroups)
        # nspawn wants a /run of its own kind, which not every container or CI machine has.
        start = (
            "mount -t tmpfs tmpfs /run && exec systemd-nspawn --quiet --directory={} --volatile=overlay --boot"
            " --register=no --keep-unit --private-network --bind-ro={}:/src --machine=miner --console=pipe"
        )
        with console.open("wb") as output:
            self.process = subprocess.Popen(
                ["/usr/bin/unshare", "--mount", "sh", "-c", enter + start.format(root, CHECKOUT)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._leader = 0
        self.before: list[str] = []
        """Files before the miner was installed."""

    def wait_until_booted(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while True:
            assert self.process.poll() is None, self._console.read_text(errors="replace")
            with contextlib.suppress(OSError, ValueError):
                self._leader = int(children.read_text().split()[0]) if children.read_text() else 0
                if self._leader and self.run("systemctl is-system-running --wait", check=False) in (
                    "running",
                    "degraded",
                ):
                    break
        if self._cgroups:
            for name in ("cpu", "cpuacct", "memory"):
                self.run(f"mount -o remount,bind,rw /sys/fs/cgroup/{name}")
            # So that it looks again at what it may set.
            self.run("systemctl daemon-reexec && systemctl is-system-running --wait", check=False)

    def command(self, shell: str) -> list[str]:
        """What runs ``shell`` in the container, as root."""
        inside = ["env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        return ["nsenter", "--all", f"--target={self._leader}", "--", *inside, "sh", "-euc", shell]

    def run(self, shell: str, *, check: bool = True) -> str:
        """Output of a shell command, stripped; with ``check`` it has to succeed."""
        ended = subprocess.run(
            self.command(shell), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert not check or ended.returncode == 0, f"{shell}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return (ended.stdout + ended.stderr).strip()

    def write(self, path: str, text: str) -> None:
        self.run(f"mkdir -p {shlex.quote(os.path.dirname(path))}; printf %s {shlex.quote(text)} >{shlex.quote(path)}")  # noqa: PTH120

    def files(self) -> list[str]:
        """Everything but what systemd itself keeps as it runs."""
        return self.run("find /etc /opt /usr /var -not -path '/var/lib/systemd/*' -not -path '/var/log/*'").splitlines()

    @property
    def controllers(self) -> set[str]:
        """Those with which its systemd can limit the service."""
        if self._cgroups:
            return {"cpu", "memory"}
        return set(self.run("cat /sys/fs/cgroup/cgroup.controllers", check=False).split())

    @contextlib.contextmanager
    def confined(self, cpus: str) -> Iterator[None]:
        """The container, and all in it, in a cpuset. Skips the test where this machine has cgroup v2 alone."""
        files = [folder / "cpuset.cpus" for folder in self._cgroups if (folder / "cpuset.cpus").exists()]
        if not files:
            pytest.skip("no cpusets of cgroup v1 on this machine: that is what AllowedCPUs= tests with cgroup v2")
        before = files[0].read_text()
        files[0].write_text(cpus)
        try:
            yield
        finally:
            files[0].write_text(before)

    # --- the service ---

    def show(self, name: str, unit: str = UNIT) -> str:
        return self.run(f"systemctl show {unit} --property={name} --value")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def configure(self, *, env: str = "", drop_in: str = "") -> None:
        """Restarts the service with these settings and this drop-in, and none else, and no jobs from before."""
        self.run(f"systemctl stop {UNIT}; rm -rf {DROP_INS} /etc/sysconfig /var/lib/quantus-miner/jobs.db*")
        self.run(f"systemctl reset-failed {UNIT} || true")
        self.write("/etc/default/quantus-miner", env)
        if drop_in:
            self.write(f"{DROP_INS}/test.conf", drop_in)
        self.run(f"systemctl daemon-reload; systemctl start {UNIT}")

    def cursor(self) -> str:
        """The end of the journal."""
        return self.run("journalctl --sync; journalctl -n 0 --show-cursor -q").rpartition("-- cursor: ")[2]

    def journal(self, cursor: str) -> list[dict[str, Any]]:
        """The unit's entries after ``cursor``, those that systemd made about it included."""
        self.run("journalctl --sync")
        lines = self.run(f"journalctl -u {UNIT} -o json -q --after-cursor={shlex.quote(cursor)}").splitlines()
        return [json.loads(line) for line in lines]

    def wait_for_message(self, cursor: str, text: str, unit: str = UNIT) -> dict[str, Any]:
        """The first entry of the unit after ``cursor`` with ``text`` in it, as soon as it is there."""
        follow = f"exec journalctl -u {unit} -f -n all -o json -q --after-cursor={shlex.quote(cursor)}"
        with subprocess.Popen(self.command(follow), stdout=subprocess.PIPE, text=True) as process:
            timer = threading.Timer(WAIT_S, process.kill)
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    entry: dict[str, Any] = json.loads(line)
                    if text in entry["MESSAGE"]:
                        return entry
            finally:
                timer.cancel()
                process.kill()
        raise AssertionError(f"{text!r} did not come: {[entry['MESSAGE'] for entry in self.journal(cursor)]}")

    def call(self, path: str, body: object = None) -> Any:
        """Decoded JSON of one call of the job API."""
        data = "" if body is None else f"-H 'content-type: application/json' -d {shlex.quote(json.dumps(body))}"
        return json.loads(self.run(f"curl -s {data} http://127.0.0.1:9833{path}"))

    def metric(self, name: str) -> float:
        text = self.run("curl -s http://127.0.0.1:9900/metrics")
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
        for folder in self._cgroups:
            for inner in [*sorted(folder.glob("**/"), reverse=True)]:
                inner.rmdir()


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The container without a miner."""
    root = CHECKOUT / "build" / "systemd-root"
    if os.geteuid() != 0 or not (root / "etc/made-by").exists():
        pytest.fail("run these as root with `make test-systemd`, which makes what they need")
    with Machine(root, tmp_path_factory.mktemp("machine") / "console") as machine:
        machine.wait_until_booted()
        yield machine


@pytest.fixture(scope="session")
def machine(bare: Machine) -> Machine:
    """The container with the miner installed as the page says, running."""
    bare.before = bare.files()
    bare.run("cd /src && make --old-file=build/wheels.stamp install PYTHON=/usr/bin/python3")
    bare.run(f"systemctl enable --now {UNIT}")
    return bare
