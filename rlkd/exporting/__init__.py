"""Export: a trained policy to ONNX, to a zip of Stable-Baselines3, to a model card, compared before it is written."""

from rlkd.exporting.command import Exported, export, parity_table
from rlkd.exporting.parity import Comparison, Parity

__all__ = ["Comparison", "Exported", "Parity", "export", "parity_table"]
