"""The README's commands, word for word, as an ordinary user of a bare Debian runs them on a clone of the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parent.parent.parent
README: Final = (CHECKOUT / "README.md").read_text(encoding="utf-8")
HOME: Final = "/home/user"
BLOCKS: Final = 3


def commands(title: str, language: str = "sh") -> list[str]:
    """The commands of the section with that title, without what they print."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    text = "".join(re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    if language == "console":
        # A command goes on in the next line within quotes and behind a backslash.
        text = "".join(re.findall(r"^\$ ((?:\\\n|[^'\n]|'[^']*')*\n)", text, re.MULTILINE))
    return [line.partition("  # ")[0].rstrip() for line in text.splitlines()]


def starting(lines: list[str], start: str) -> str:
    """The one line that starts so."""
    (only,) = (line for line in lines if line.startswith(start))
    return only


def script() -> str:
    """What the user types. ``: ==> …`` marks where it is."""
    run = starting(commands("Two commands"), "make run")
    install = "\n".join(commands("Install")[:3])
    job = "\n".join(commands("A first job over HTTP", "console"))
    service = starting(commands("A first job over HTTP"), "quantus-miner")
    assert install.startswith("python3 -m venv venv\nvenv/bin/pip install .\n")
    assert job.count("curl ") == 3
    assert "quantus-miner verify" in job
    return f"""
set -eu
git clone --quiet /src.bundle quantus-miner
cd quantus-miner

echo '==> {run}'
setsid {run} >run.log 2>&1 &
run=$!
until grep -E '^block +{BLOCKS} ' run.log; do
    if ! kill -0 $run; then cat run.log; exit 1; fi
    sleep 0.2
done
echo '==> Ctrl-C'
kill -INT -$run
wait $run || true
tail -n 1 run.log | grep ' 0 invalid, 0 stale'

echo '==> {install.splitlines()[1]}'
{install}
PATH=$PWD/venv/bin:$PATH

echo '==> {service}, and a job'
{service} 2>service.log &
until curl -sf http://127.0.0.1:9833/health; do kill -0 $!; sleep 0.1; done
{job}
until curl -s http://127.0.0.1:9833/result/job-1 | grep '"status":"completed"'; do sleep 0.1; done
kill $!
wait $!
echo '==> done'
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_new_user_mines(suite: str, tmp_path: Path) -> None:
    root = CHECKOUT / "build" / "fresh" / suite
    bundle = tmp_path / "bundle"
    subprocess.run(["git", "-C", CHECKOUT, "bundle", "create", "--quiet", bundle, "HEAD"], check=True)  # noqa: S607
    bundle.chmod(0o644)
    # What pip was told on this machine: where packages are, and whom to trust.
    environ = {name: text for name, text in os.environ.items() if name.startswith("PIP_") and name != "PIP_FIND_LINKS"}
    files = {text for name, text in os.environ.items() if name in ("PIP_CERT", "PIP_CONFIG_FILE")} | {"/etc/pip.conf"}
    flags = [f"--setenv={name}={text}" for name, text in (environ | {"HOME": HOME}).items()]
    flags += [f"--bind-ro={file}" for file in files if Path(file).is_file()]
    # nspawn wants a /run of its own kind, which not every container or CI machine has.
    own_run = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")
    nspawn = (
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe"),
        *("--volatile=overlay", "--resolv-conf=copy-host", f"--directory={root}", f"--bind-ro={bundle}:/src.bundle"),
        *("--user=user", f"--chdir={HOME}", *flags),
    )
    began = last = time.monotonic()
    with subprocess.Popen(
        [*own_run, *nspawn, "sh", "-c", script()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        print(f"\n{suite}")
        for line in process.stdout:
            now = time.monotonic()
            print(f"{now - began:6.1f} s (+{now - last:5.1f})  {line}", end="", flush=True)
            last = now
    assert process.returncode == 0
    assert "==> done" in line
