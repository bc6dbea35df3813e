"""What survives a restart: HTTP jobs with their progress and results, and the history of what was found."""
