"""Engines search slices of nonces: the protocol they fulfil and the registry that makes them by name."""

from quantus_miner.backends.base import Control, Engine
from quantus_miner.backends.registry import create_engines, unavailable_reason

__all__ = ["Control", "Engine", "create_engines", "unavailable_reason"]
