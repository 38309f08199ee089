"""One cell of a study: an agent trained on an environment from a seed, then played under the environment's protocol.

A cell is a folder: the training run, `score.json` when it is done, `log.txt` of what its process said. It is computed
by a process of its own (`python -m rlkd.study.cell FOLDER`), so that a cell that dies takes no other with it.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rlkd import metrics, storage
from rlkd.data import JsonDict
from rlkd.errors import RlkdError, StorageError

SCORE, REQUEST, LOG = "score.json", "request.json", "log.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is to be computed, and where."""

    env: str
    """Environment, as it was named."""
    agent: str
    """Agent recipe, as it was named."""
    seed: int
    """Training seed."""
    frames: int
    """Emulator frames."""
    episodes: int
    """Of the evaluation."""
    device: str
    """auto, cpu or cuda."""
    overrides: tuple[str, ...]
    """`key=value` for the agent's recipe."""
    folder: Path
    """Of the cell."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.agent} on {self.env}, seed {self.seed}"

    def score(self) -> JsonDict | None:
        """The finished cell's record; None where it is not finished."""
        path = self.folder / SCORE
        if not path.exists():
            return None
        record = storage.read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("scores"), list):
            raise StorageError(f"{path}: damaged; delete it to compute this cell again")
        return record

    def request(self) -> JsonDict:
        """As JSON."""
        return {
            "env": self.env,
            "agent": self.agent,
            "seed": self.seed,
            "frames": self.frames,
            "episodes": self.episodes,
            "device": self.device,
            "overrides": list(self.overrides),
        }


def start(cell: Cell) -> subprocess.Popen[bytes]:
    """Start a cell's process. It hears no Ctrl-C of the terminal: who started it passes one on."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    storage.write_json(cell.folder / REQUEST, cell.request())
    with (cell.folder / LOG).open("ab") as log:
        command = [sys.executable, "-m", "rlkd.study.cell", str(cell.folder)]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def last_words(cell: Cell) -> str:
    """The last line that a cell's process said."""
    lines = (cell.folder / LOG).read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def main(folder: Path) -> int:
    """Train and play the cell of a folder; exit code as that of `rlkd`."""
    from rlkd.evaluation import play
    from rlkd.learn import train
    from rlkd.vector import as_recipe

    asked = storage.read_json(folder / REQUEST)
    try:
        policy = train(
            asked["env"],
            asked["agent"],
            run=folder,
            seed=asked["seed"],
            frames=asked["frames"],
            device=asked["device"],
            overrides=asked["overrides"],
        )
        environment = as_recipe(asked["env"])
        with metrics.stop_signal() as stop:
            evaluation = play(policy, environment, episodes=asked["episodes"], stop=stop).evaluation
    except RlkdError as error:
        metrics.say(f"rlkd: {error}")
        return error.exit_code
    record = {"scores": evaluation.scores, "steps": evaluation.steps, "rule": evaluation.rule, "hash": policy.spec.hash}
    storage.write_json(folder / SCORE, record)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
