"""The I/O around ``wire``: where jobs come from and solutions go to."""
