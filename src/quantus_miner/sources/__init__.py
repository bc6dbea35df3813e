"""The I/O around ``proto``: where jobs come from and solutions go to."""
