"""Reinforcement learning: makes the teachers."""

from rlkd.learn.command import train

__all__ = ["train"]
