"""Learning: our learners against Stable-Baselines3's at the same steps."""
