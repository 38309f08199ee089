"""Generations on Pong and Breakout."""
