"""The hub: passes the work of one node or pool on to many rigs and miners, and their solutions back."""
