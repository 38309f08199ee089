"""`compare`: agents x environments x seeds, resumable, on as many processes as the cores carry."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rlkd import metrics, recipe, storage
from rlkd.data import JsonDict
from rlkd.errors import RecipeError, RlkdError, StorageError
from rlkd.evaluation import play_randomly
from rlkd.recipe import Dqn, Environment, Ppo, Sb3, check_request, load_any, recipe_hash, to_table
from rlkd.study.cell import Cell, last_words, start
from rlkd.study.verdicts import verdicts
from rlkd.vector import as_recipe

LOOK_EVERY = 0.2  # seconds between two looks at the processes


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
        run: folder; what is finished in it is not repeated, and agents, environments and seeds may be added.
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
        RlkdError: what the caller can fix, as agents with other budgets or a folder with scores of another protocol;
            `Stopped` on a signal, when all that ran has saved.
    """
    check_request(0, episodes)
    folder = Path(run)
    places = {name: as_recipe(name) for name in _each_once(envs, "environment")}
    learners = {name: _learner(name, overrides, frames) for name in _each_once(agents, "agent")}
    if seeds < 1:
        raise RecipeError(f"seeds must be at least 1, got {seeds}")
    budgets = {name: learner.frames for name, learner in learners.items()}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{name}: {budget:,}" for name, budget in budgets.items())
        raise RecipeError(f"agents with other budgets do not compare ({told} frames); give --frames")
    _refuse_two_protocols(places)
    cells = [
        Cell(
            env=env,
            agent=agent,
            seed=seed,
            frames=learners[agent].frames,
            episodes=episodes or place.protocol.episodes,
            device=device,
            overrides=tuple(overrides),
            folder=folder / "cells" / _slug(env) / _slug(agent) / f"seed{seed}",
        )
        for seed in range(seeds)  # all of them at few seeds say more than some of them at all
        for env, place in places.items()
        for agent in learners
    ]
    with storage.run_folder(folder), metrics.stop_signal() as stop:
        storage.refuse_other_kinds(folder, "compare")
        record: JsonDict = {
            "kind": "compare",
            "status": "running",
            "run": str(folder),
            "command": command,
            "order": {"environments": list(places), "agents": list(learners)},
            "environments": {name: _told(place, cells[0].episodes) for name, place in places.items()},
            "agents": {name: to_table(learner) for name, learner in learners.items()},
            "hashes": {name: recipe_hash(value) for name, value in (places | learners).items()},
            "episodes": {name: episodes or place.protocol.episodes for name, place in places.items()},
            "seeds": seeds,
            "frames": cells[0].frames,
            "versions": storage.versions(),
        }
        _refuse_other_study(folder, record)
        storage.write_json(folder / "run.json", record)
        _compute_all(cells, workers or _side_by_side(places.values()), stop)
        for name, place in places.items():
            random = play_randomly(place, episodes=record["episodes"][name])
            record["environments"][name] |= {"random": list(random.scores)}
        record["cells"] = [
            {"env": cell.env, "agent": cell.agent, "seed": cell.seed, "path": str(cell.folder.relative_to(folder))}
            | (cell.score() or {})
            for cell in cells
        ]
        record |= {"verdicts": verdicts(record), "status": "done"}
        storage.write_json(folder / "run.json", record)
    return record


def _compute_all(cells: Sequence[Cell], workers: int, stop: metrics.StopSignal) -> None:
    """Every cell that is not finished; a failed one is named when the others are done."""
    waiting = [cell for cell in cells if cell.score() is None]
    running: list[tuple[Cell, subprocess.Popen[bytes]]] = []
    failed: list[Cell] = []
    told = False
    try:
        with metrics.bar("compare, runs", len(cells)) as bar:
            while running or (waiting and not stop.asked):
                while waiting and len(running) < workers and not stop.asked:
                    running.append((waiting[0], start(waiting.pop(0))))
                if stop.asked and not told:
                    told = True
                    for _, process in running:
                        process.send_signal(signal.SIGINT)
                time.sleep(LOOK_EVERY)
                ended = [(cell, process) for cell, process in running if process.poll() is not None]
                running = [each for each in running if each not in ended]
                failed += [cell for cell, process in ended if process.returncode != 0]
                done = len(cells) - len(waiting) - len(running) - len(failed)
                bar.update(done, ", ".join(cell.name for cell, _ in running))
    finally:
        for _, process in running:
            process.kill()
    stop.check("what ran is saved; the same command goes on")
    if failed:
        lines = "\n".join(f"  {cell.name}: {last_words(cell)} ({cell.folder})" for cell in failed)
        raise RlkdError(f"{len(failed)} of {len(cells)} runs failed; the same command tries them again\n{lines}")


def _learner(name: str, overrides: Sequence[str], frames: int | None) -> Ppo | Dqn | Sb3:
    path = recipe.resolve(name, "agents")
    if not isinstance(load_any(path), Ppo | Dqn | Sb3):
        raise RecipeError(f"'{name}' does not say how to train; `rlkd list agents` shows rl/, explore/, sb3/ recipes")
    learner = load_any(path, overrides=overrides)
    assert isinstance(learner, Ppo | Dqn | Sb3)
    return learner if frames is None else replace(learner, frames=frames)


def _each_once(names: Sequence[str], what: str) -> list[str]:
    if not names:
        raise RecipeError(f"nothing to compare; name at least one {what}")
    if len(set(names)) < len(names):
        raise RecipeError(f"an {what} is named twice: {', '.join(names)}")
    return list(names)


def _refuse_two_protocols(places: dict[str, Environment]) -> None:
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


def _refuse_other_study(folder: Path, record: JsonDict) -> None:
    """Whatever the folder knows already must be the same: recipes by their hashes, frames, episodes."""
    if not (folder / "run.json").exists():
        return
    before = storage.read_json(folder / "run.json")
    if before.get("frames") != record["frames"]:
        raise StorageError(f"{folder} holds runs of {before.get('frames'):,} frames; name another --run")
    for key in ("hashes", "episodes"):
        for name in sorted(set(before.get(key, {})) & set(record[key])):
            if before[key][name] != record[key][name]:
                raise StorageError(f"{folder} holds scores of another '{name}' ({key} differ); name another --run")


def _told(place: Environment, episodes: int) -> JsonDict:
    return {"id": place.id, "protocol": place.protocol.name, "frame_skip": place.frame_skip, "episodes": episodes}


def _side_by_side(places: Iterable[Environment]) -> int:
    cores = os.cpu_count() or 1
    return max(1, cores // 2) if any(place.source == "ale" for place in places) else cores


def _slug(name: str) -> str:
    return name.removesuffix(".toml").replace("/", "-")
