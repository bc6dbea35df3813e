"""What the machine gives this process: CPUs it can really use, and how its threads behave on them."""
