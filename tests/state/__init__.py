"""The state folder that each released version left behind, see ``make``."""
