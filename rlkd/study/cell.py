"""One cell of a study: an agent trained on an environment from a seed, then played under the environment's protocol.

A cell is a folder: its recipes, the training run, `score.json` when it is done, `log.txt` of what its process said. It
is computed by a process of its own (`python -m rlkd.study.cell FOLDER`), so that a cell that dies takes no other with
it. Recipes are written there when the study begins: what is edited meanwhile changes nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from rlkd import metrics, recipe, storage
from rlkd.data import JsonDict
from rlkd.errors import RlkdError, StorageError
from rlkd.learn.checkpoint import SB3_RECORD
from rlkd.recipe import Dqn, Environment, Network, Ppo, Sb3, recipe_hash

SCORE, REQUEST, LOG = "score.json", "request.json", "log.txt"
ENVIRONMENT, AGENT = "environment.toml", "agent.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is to be computed, and where."""

    env: str
    """Environment, as it was named."""
    agent: str
    """Agent recipe, as it was named."""
    place: Environment
    """What that name means."""
    learner: Ppo | Dqn | Sb3
    """The same of the agent, with overrides and frames."""
    seed: int
    """Training seed."""
    episodes: int
    """Of the evaluation."""
    device: str
    """auto, cpu or cuda."""
    study: Path
    """Folder of the study."""
    key: str
    """`cell_key`, from when the study began."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.agent} on {self.env}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Of the cell; another recipe, network, budget or number of episodes has another one."""
        return self.study / "cells" / short(self.env) / f"{short(self.agent)}-{self.key[:8]}" / f"seed{self.seed}"

    def score(self) -> JsonDict | None:
        """The finished cell's record; None where it is not finished."""
        path = self.folder / SCORE
        if not path.exists():
            return None
        record = storage.read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("scores"), list):
            raise StorageError(f"{path}: damaged; delete it to compute this cell again")
        if record.get("key") != self.key:
            raise StorageError(f"{path}: of other recipes; delete it to compute this cell again")
        return record


def cell_key(place: Environment, learner: Ppo | Dqn | Sb3, episodes: int) -> str:
    """Hash of all that a cell's scores depend on, but for seed and versions."""
    network = "" if isinstance(learner, Sb3) else recipe_hash(recipe.load(learner.network, Network))
    return storage.sha256(json.dumps([recipe_hash(place), recipe_hash(learner), network, episodes]).encode())


def short(name: str) -> str:
    """A recipe's last part, for folders and charts."""
    return name.removesuffix(".toml").rsplit("/", 1)[-1]


def start(cell: Cell) -> subprocess.Popen[bytes]:
    """Start a cell's process. It saves and stops when its standard input closes, as when who started it dies; it hears
    no Ctrl-C of the terminal.

    Raises:
        StorageError: its folder cannot be written.
    """
    folder = cell.folder
    if (folder / SB3_RECORD).exists():
        shutil.rmtree(folder)  # of Stable-Baselines3, and stopped: it can only begin again
    request = {"seed": cell.seed, "episodes": cell.episodes, "device": cell.device, "key": cell.key}
    storage.write_json(folder / REQUEST, request)
    storage.write_bytes(folder / ENVIRONMENT, recipe.dump(cell.place).encode())
    storage.write_bytes(folder / AGENT, recipe.dump(cell.learner).encode())
    try:
        with (folder / LOG).open("ab") as log:
            log.write(b"-- another attempt\n")
            command = [sys.executable, "-m", "rlkd.study.cell", str(folder)]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    except OSError as error:
        raise StorageError(f"{folder / LOG}: {error.strerror}") from None


def last_words(cell: Cell, returncode: int) -> str:
    """How a cell's process ended, and the last line that it said."""
    lines = (cell.folder / LOG).read_text(errors="replace").strip().splitlines()
    ending = f"killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    return f"{ending}: {lines[-1]}" if lines else ending


def main(folder: Path) -> int:
    """Train and play the cell of a folder; exit code as that of `rlkd`."""
    from rlkd.evaluation import play
    from rlkd.learn import train

    threading.Thread(target=_stop_with_parent, daemon=True).start()
    asked = storage.read_json(folder / REQUEST)
    place, agent = recipe.load(str(folder / ENVIRONMENT), Environment), str(folder / AGENT)
    try:
        learner = recipe.load_any(folder / AGENT)
        assert isinstance(learner, Ppo | Dqn | Sb3)
        if cell_key(place, learner, asked["episodes"]) != asked["key"]:
            raise RlkdError(f"network '{getattr(learner, 'network', '')}' was changed while the study ran")
        policy = train(place, agent, run=folder, seed=asked["seed"], device=asked["device"])
        with metrics.stop_signal() as stop:
            evaluation = play(policy, place, episodes=asked["episodes"], stop=stop).evaluation
    except RlkdError as error:
        metrics.say(f"rlkd: {error}")
        return error.exit_code
    record = {"scores": evaluation.scores, "steps": evaluation.steps, "rule": evaluation.rule, "hash": policy.spec.hash}
    storage.write_json(folder / SCORE, record | {"key": asked["key"]})
    return 0


def _stop_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
