"""``python -m tests.fuzz [TARGET…] [--seconds N | --runs N]``: one target after the other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.hunt import GUIDED, NAMES, Limit, hunt, load_targets


def main() -> None:
    """The command line. The exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes what reads bytes from outside.")
    parser.add_argument("target", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}; default: all")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target; default: %(default)s")
    limit.add_argument("--runs", type=int, metavar="N", help="inputs for each target, instead")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/fuzz"),
        metavar="DIR",
        help="of logs, findings and gathered corpora, from which the next hunt goes on; default: %(default)s",
    )
    parser.add_argument(
        "--random",
        dest="guided",
        action="store_false",
        default=GUIDED,
        help="change the seeds at random, as if atheris were not installed",
    )
    given = parser.parse_args()
    targets = load_targets(guided=given.guided)
    if unknown := set(given.target) - set(targets):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    print(f"{'target':20} {'inputs':>10} {'files':>6} {'edges':>6}")
    found = False
    for name in given.target:
        result = hunt(name, targets[name], given.folder, Limit(given.runs, given.seconds), guided=given.guided)
        print(f"{name:20} {result.inputs:10,} {result.files:6,} {result.edges:6,}", flush=True)
        if result.finding:
            found = True
            print(result.finding, flush=True)
    sys.exit(found)


if __name__ == "__main__":
    main()
