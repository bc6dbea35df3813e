"""Backends search slices of nonces: their table, the protocol that their engines fulfil, and the engines themselves."""
