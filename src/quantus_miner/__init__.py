"""External proof-of-work miner for the Quantus network."""

from importlib.metadata import version

__version__ = version("quantus-miner")
