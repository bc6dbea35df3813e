"""What RaveOS runs to start the miner: it turns the task's configuration into a command line."""

import shlex
from pathlib import Path

import ravinos

config = ravinos.get_config()
folder = Path(config["miner_dir"])
for name in ("quantus-miner", "usr/bin/run", "usr/libexec/quantus-miner"):
    (folder / name).chmod(0o755)  # not every program that unpacks ZIP archives does that

command = [str(folder / "quantus-miner"), "--port=" + str(config["api_port"])]
pools = config["coins"][0]["pools"] if config["coins"] else []
command += ["--pool=" + pool["url"] for pool in pools]
if pools:
    wallet, _, worker = pools[0]["user"].partition(".")
    worker = worker or (config.get("auth_config") or {}).get("worker")
    command.append("--wallet=" + wallet)
    if worker:
        command.append("--worker-name=" + worker)
line = " ".join(shlex.quote(word) for word in command)
# The extra arguments come last, so that they win. RaveOS gives them as a text or as a list.
extra = config.get("args") or ""
ravinos.run(line + " " + (extra if isinstance(extra, str) else " ".join(extra)))
