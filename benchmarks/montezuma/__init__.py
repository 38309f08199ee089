"""Montezuma's Revenge with random network distillation: curve, rooms, frames, hours."""
