"""How long one decision takes in torch and in ONNX Runtime, on one thread of the CPU."""

import tempfile
from pathlib import Path
from statistics import median

from rlkd.errors import ExportError
from rlkd.evaluation import decision_seconds
from rlkd.policy import Acting, Policy
from rlkd.policy.compute import one_thread_per_role
from rlkd.policy.onnx_file import OnnxPolicy

CALLS = 200


def latencies(policy: Policy) -> dict[str, float]:
    """Median seconds of one decision by what computes it: torch, and ONNX Runtime where it is installed."""
    from rlkd.exporting.graph import onnx_bytes

    one_thread_per_role()
    players: dict[str, Acting] = {"torch": policy}
    try:
        content = onnx_bytes(policy, policy.spec.hash)
    except ExportError:  # not installed: a card without that line
        content = b""
    if content:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "policy.onnx"
            file.write_bytes(content)
            players["ONNX Runtime"] = OnnxPolicy(file)
    return {name: median(decision_seconds(player, CALLS)) for name, player in players.items()}
