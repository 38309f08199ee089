"""Exploration: PPO, PPO with a bonus, PPO with counts, where chance does not find the reward."""
