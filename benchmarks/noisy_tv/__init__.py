"""The noisy television: what holds a curious player."""
