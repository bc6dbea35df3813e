"""The command ``quantus-miner``, also as ``python -m quantus_miner``."""

import sys


def main() -> None:
    """Run the command. Ctrl-C while it is being imported ends it without a traceback, too."""
    try:
        from quantus_miner.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
