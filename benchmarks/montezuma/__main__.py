"""PPO with random network distillation on Montezuma's Revenge: what a training run came to, and how to go on with it.

    rlkd train montezuma --agent explore/ppo_rnd --run runs/montezuma   # stop it when you like; it goes on
    make bench NAME=montezuma                                           # what it has reached by now

One seed: a record of what was reached, with no claim about the method. Scores are means of the last 100 episodes in
training, raw; rooms are all that were seen in episodes so far, by the console's memory.
"""

import argparse
import json
from pathlib import Path

import safetensors

from benchmarks.common import Record, end_with, machine, store, thinned
from rlkd.learn.checkpoint import FILE
from rlkd.metrics import read_metrics
from rlkd.storage import read_json

FOLDER = Path(__file__).parent
RUN = Path("runs") / "montezuma"
COMMAND = "rlkd train montezuma --agent explore/ppo_rnd --run runs/montezuma"
COLUMNS = {
    "time/frames": ("frames", 0),
    "time/hours": ("hours", 2),
    "rollout/ep_rew_mean": ("score", 1),
    "rollout/rooms": ("rooms", 0),
    "advantage/bonus": ("bonus's share of the advantage", 2),
    "bonus/raw": ("bonus, not scaled", 4),
    "bonus/deviation": ("deviation", 4),
}
ROWS, POINTS = 12, 300


def main() -> int:
    """Read the run's curves, and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the training run")
    parser.add_argument("--command", default=COMMAND, help="the command that it was started with, and goes on with")
    parser.add_argument("--where", default="this machine", help="where it was trained")
    chosen = parser.parse_args()
    curve = [line for line in read_metrics(chosen.run) if "time/frames" in line]
    if not curve:
        raise SystemExit(f"{chosen.run} has no curve yet; begin with: {chosen.command}")
    with safetensors.safe_open(str(chosen.run / FILE), framework="np") as opened:
        reached: Record = json.loads(opened.metadata()["progress"])
    steps, scores, rooms = reached["steps"], reached["scores"], len(reached["rooms"])
    frames = steps * curve[-1]["time/frames"] / curve[-1]["step"]
    told = f"{steps:,} agent steps, {frames:,.0f} frames, {reached['seconds'] / 3600:.2f} hours"
    lines = [
        f"{told}, one seed, on {chosen.where}.",
        f"There: {sum(scores) / len(scores):.1f} points in the last {len(scores)} episodes; rooms so far: {rooms}.",
        f"It goes on with: `{chosen.command}`",
        "",
        f"| agent steps | {' | '.join(title for title, _ in COLUMNS.values())} |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for line in thinned(curve, ROWS):
        cells = [f"{line[tag]:,.{digits}f}" if tag in line else "" for tag, (_, digits) in COLUMNS.items()]
        lines.append(f"| {line['step']:,.0f} | {' | '.join(cells)} |")
    record: Record = {"machine": machine(), "command": chosen.command, "trained": chosen.where, "curve": []}
    record["reached"] = {key: reached[key] for key in ("steps", "seconds", "scores", "rooms")}
    for line in thinned(curve, POINTS):
        record["curve"].append({tag: line[tag] for tag in ("step", *COLUMNS) if tag in line})
    finished = chosen.run / "run.json"
    record["finished"] = finished.exists() and read_json(finished).get("status") == "done"
    store(FOLDER, record, lines)
    return 0


if __name__ == "__main__":
    end_with(main)
