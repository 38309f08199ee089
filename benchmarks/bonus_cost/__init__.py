"""What a bonus costs: agent steps per second with it and without."""
