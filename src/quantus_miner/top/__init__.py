"""``quantus-miner top``: a running miner in the terminal."""
