"""The miner: workers, searches, nonce ranges and hash rates."""
