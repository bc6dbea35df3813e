"""Backends search slices of nonces: their table, the protocol that engines implement, and the engines."""
