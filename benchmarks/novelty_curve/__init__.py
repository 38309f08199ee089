"""Novelty: the error of random network distillation over how often something was seen."""
