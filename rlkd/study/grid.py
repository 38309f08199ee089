"""`compare`: agents x environments x seeds, resumable, on as many processes as the cores carry."""

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from rlkd import metrics, recipe, storage
from rlkd.data import JsonDict
from rlkd.errors import RecipeError, RlkdError
from rlkd.evaluation import play_randomly
from rlkd.policy.compute import pick_device
from rlkd.recipe import Dqn, Environment, Ppo, Sb3, check_request, load_any, recipe_hash, to_table
from rlkd.study.cell import Cell, cell_key, last_words, short, start
from rlkd.study.verdicts import verdicts
from rlkd.vector import as_recipe, spaces

V = TypeVar("V")
LOOK_EVERY = 0.2  # seconds between two looks at the processes
LONGEST_STOP = 60.0  # seconds that a process may take to save


def compare(
    envs: Sequence[str],
    agents: Sequence[str],
    *,
    seeds: int,
    run: str | Path,
    frames: int | None = None,
    episodes: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overrides: Sequence[str] = (),
    command: str = "",
) -> JsonDict:
    """Train every agent on every environment from every seed, play the policies, and say what differs.

    Args:
        envs: environment recipes.
        agents: agent recipes; the others are compared with the first.
        seeds: training seeds 0 to seeds - 1.
        run: folder; what was finished in it by the same recipes is not repeated, and agents, environments and seeds
            may be added. Whatever changes a score, as a recipe, a budget or a number of episodes, is computed anew.
        frames: emulator frames of each training; None takes the recipes', which must agree.
        episodes: of each evaluation; None takes the protocol's.
        device: `auto`, `cpu` or `cuda`.
        workers: processes side by side; None takes one a core, or one for two cores where emulators have threads of
            their own.
        overrides: `key=value` for every agent's recipe.
        command: for the record.

    Returns:
        The content of `run.json`.

    Raises:
        RlkdError: what the caller can fix, as agents with other budgets, or one game under two protocols;
            `Stopped` on a signal, when all that ran has saved.
    """
    check_request(0, episodes)
    pick_device(device)
    for name, count in (("seeds", seeds), ("workers", workers)):
        if count is not None and count < 1:
            raise RecipeError(f"{name} must be at least 1, got {count}")
    folder = Path(run)
    places = _by_name(envs, "environment", {name: as_recipe(name) for name in envs})
    learners = _by_name(agents, "agent", {name: _learner(name, overrides, frames) for name in agents})
    budgets = {name: learner.frames for name, learner in learners.items()}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{name}: {budget:,}" for name, budget in budgets.items())
        raise RecipeError(f"agents with other budgets do not compare ({told} frames); give --frames")
    _refuse_two_protocols(places)
    for place in places.values():
        spaces(place)  # an environment that cannot be made is refused here
    lengths = {name: episodes or place.protocol.episodes for name, place in places.items()}
    cells = [
        Cell(
            env=env,
            agent=agent,
            place=place,
            learner=learner,
            seed=seed,
            episodes=lengths[env],
            device=device,
            study=folder,
            key=cell_key(place, learner, lengths[env]),
        )
        for seed in range(seeds)  # all of them at few seeds say more than some of them at all
        for env, place in places.items()
        for agent, learner in learners.items()
    ]
    with storage.run_folder(folder), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(folder, "compare")
        record: JsonDict = {
            "kind": "compare",
            "status": "running",
            "run": str(folder),
            "command": command,
            "order": {"environments": list(places), "agents": list(learners)},
            "environments": {
                name: {"id": place.id, "protocol": place.protocol.name, "frame_skip": place.frame_skip}
                for name, place in places.items()
            },
            "agents": {name: to_table(learner) for name, learner in learners.items()},
            "hashes": {name: recipe_hash(value) for name, value in (places | learners).items()},
            "episodes": lengths,
            "seeds": seeds,
            "frames": next(iter(budgets.values())),
            "versions": storage.versions(),
        }
        record["cells"] = [_told(cell) for cell in cells]
        storage.write_json(folder / "run.json", record)
        _compute_all(cells, workers or _side_by_side(places.values()), stop)
        for name, place in places.items():
            record["environments"][name]["random"] = _random(folder, name, place, lengths[name], stop)
        record["cells"] = [_told(cell) | (cell.score() or {}) for cell in cells]
        record |= {"verdicts": verdicts(record), "status": "done"}
        storage.write_json(folder / "run.json", record)
    return record


def _compute_all(cells: Sequence[Cell], workers: int, stop: metrics.StopSignal) -> None:
    """Every cell that is not finished; failed ones are named when the others are done."""
    waiting = [cell for cell in cells if cell.score() is None]
    running: list[tuple[Cell, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    try:
        with metrics.bar("compare, runs", len(cells)) as bar:
            while running or (waiting and not stop.asked):
                while waiting and len(running) < workers and not stop.asked:
                    running.append((waiting[0], start(waiting.pop(0))))
                if stop.asked:
                    _ask_to_stop(running)
                time.sleep(LOOK_EVERY)
                for cell, process in list(running):
                    if process.poll() is None:
                        continue
                    running.remove((cell, process))
                    _ask_to_stop([(cell, process)])  # closes our end of its pipe
                    score = cell.score()
                    if score is not None:
                        metrics.say(f"{cell.name}: {np.mean(score['scores']):.3f}")
                    else:
                        failed.append(f"  {cell.name}: {last_words(cell, process.returncode)} ({cell.folder})")
                done = len(cells) - len(waiting) - len(running) - len(failed)
                bar.update(done, ", ".join(cell.name for cell, _ in running))
    finally:
        _ask_to_stop(running)
        for _, process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LONGEST_STOP)
            process.kill()
            process.wait()
    stop.check("what ran is saved; the same command goes on")
    if failed:
        lines = "\n".join(failed)
        raise RlkdError(f"{len(failed)} of {len(cells)} runs failed; the same command tries them again\n{lines}")


def _ask_to_stop(running: Iterable[tuple[Cell, subprocess.Popen[bytes]]]) -> None:
    for _, process in running:
        if process.stdin is not None:
            process.stdin.close()


def _random(folder: Path, name: str, place: Environment, episodes: int, stop: metrics.StopSignal) -> list[float]:
    """Scores of uniformly random play, from the study's folder where they are known."""
    key = f"{recipe_hash(place)} {episodes}"
    path = folder / "random" / f"{short(name)}-{storage.sha256(key.encode())[:8]}.json"
    if not path.exists():
        storage.write_json(path, {"scores": play_randomly(place, episodes=episodes, stop=stop).scores})
    return [float(score) for score in storage.read_json(path)["scores"]]


def _told(cell: Cell) -> JsonDict:
    path = str(cell.folder.relative_to(cell.study))
    return {"env": cell.env, "agent": cell.agent, "seed": cell.seed, "path": path}


def _learner(name: str, overrides: Sequence[str], frames: int | None) -> Ppo | Dqn | Sb3:
    path = recipe.resolve(name, "agents")
    if not isinstance(load_any(path), Ppo | Dqn | Sb3):
        raise RecipeError(f"'{name}' does not say how to train; `rlkd list agents` shows rl/, explore/, sb3/ recipes")
    learner = load_any(path, overrides=overrides)
    assert isinstance(learner, Ppo | Dqn | Sb3)
    return learner if frames is None else replace(learner, frames=frames)


def _by_name(names: Sequence[str], what: str, values: Mapping[str, V]) -> dict[str, V]:
    """The values in order of their names; RecipeError for none, and for two names of one recipe."""
    if not names:
        raise RecipeError(f"nothing to compare; name at least one {what}")
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(recipe_hash(values[name]), name)
        if other != name or names.count(name) > 1:
            raise RecipeError(f"'{other}' and '{name}' are one {what}; name it once")
    return {name: values[name] for name in names}


def _refuse_two_protocols(places: Mapping[str, Environment]) -> None:
    """Scores of one game under two protocols do not stand in one table."""
    known: dict[str, tuple[str, str]] = {}
    for name, place in places.items():
        game = f"{place.id} {sorted(place.options.items())} {place.layout_seed}"
        other, protocol = known.setdefault(game, (name, place.protocol.name))
        if protocol != place.protocol.name:
            raise RecipeError(
                f"'{other}' and '{name}' are one game under two protocols ({protocol}, {place.protocol.name}); "
                "compare them in runs of their own"
            )


def _side_by_side(places: Iterable[Environment]) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2) if any(place.source == "ale" for place in places) else cores
