"""The parts of the service, one class each, and the supervisor that starts, watches, changes and stops them."""
