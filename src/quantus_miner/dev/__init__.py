"""Nodes and pools to try a miner with and to test it against: real protocols, and every answer is checked."""
