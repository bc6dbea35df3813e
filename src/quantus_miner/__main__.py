"""``python -m quantus_miner`` is the command ``quantus-miner``."""

from quantus_miner.cli import main

main()
