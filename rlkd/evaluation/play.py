"""Evaluation: policy + protocol -> raw scores of whole games, one seed and one random stream for each episode.

Scores do not depend on how many environments play side by side: every episode starts from its own seed, draws from
its own stream, and inference runs in float32 on batches of one fixed size.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlkd import metrics
from rlkd.data import Evaluation
from rlkd.errors import MismatchError, RecipeError
from rlkd.evaluation.players import PolicyPlayer, RandomPlayer, Seat, Table
from rlkd.policy import Acting, Rule, as_player, parse_rule
from rlkd.policy.compute import one_thread_per_role
from rlkd.policy.loading import check_fits
from rlkd.recipe import Environment
from rlkd.vector import Stepper, as_recipe, make_vec


@dataclass(frozen=True, slots=True)
class Played:
    """An evaluation and, if asked for, states that were visited in it."""

    evaluation: Evaluation
    """The scores."""
    states: np.ndarray
    """[S, ...]: observations drawn uniformly from each episode, in order of episodes; empty if none were asked for.
    With a stretch above 1, stretches of so many consecutive ones."""
    stretch: int = 1
    """How many of the states follow each other."""


def play(
    policy: Acting,
    environment: Environment | None = None,
    *,
    episodes: int | None = None,
    rule: Rule | None = None,
    num_envs: int = 16,
    first_seed: int | None = None,
    keep_states: int = 0,
    stretch: int = 1,
    title: str | None = None,
    stop: metrics.StopSignal | None = None,
) -> Played:
    """Play whole episodes and count raw scores.

    Args:
        policy: who plays.
        environment: where; None takes the policy's own.
        episodes: how many; None takes the protocol's.
        rule: how actions are picked; None takes the policy's own.
        num_envs: environments side by side; changes the speed, not the scores.
        first_seed: environment seed of the first episode; None takes the protocol's.
        keep_states: how many visited states to return, spread evenly over episodes.
        stretch: how many of them follow each other.
        title: of the progress bar; None takes the policy's name.
        stop: when set, playing ends at the next step.

    Raises:
        MismatchError: the policy does not fit the environment, or nobody said where it plays.
        RecipeError: fewer than one episode or environment.
        Stopped: `stop` was set.
    """
    environment = environment_of(policy, environment)
    rule = rule or policy.spec.rule
    player = PolicyPlayer(policy, rule)
    name = policy.spec.name
    title = title or f"evaluate {name}"
    played = _play(player, environment, episodes, num_envs, first_seed, keep_states, stretch, title, stop)
    spec = policy.spec
    evaluation = dataclasses.replace(
        played.evaluation,
        policy=name,
        rule=str(rule),
        parameters=spec.parameters,
        weight_bytes=spec.weight_bytes,
        hash=spec.hash,
    )
    return Played(evaluation, played.states, stretch)


def evaluate(
    policy: Acting | str | Path,
    *,
    env: Environment | str | None = None,
    episodes: int | None = None,
    rule: str | None = None,
    num_envs: int = 16,
) -> Evaluation:
    """Raw scores of whole games under the environment's protocol.

    Args:
        policy: a policy or its file.
        env: where; None takes the policy's own.
        episodes: how many; None takes the protocol's.
        rule: "greedy", "sampled" or "epsilon_greedy 0.05"; None takes the policy's own.
        num_envs: environments side by side; changes the speed, not the scores.

    Raises:
        RlkdError: the file cannot be read, or policy and environment do not fit.
    """
    environment = None if env is None else as_recipe(env)
    wanted = None if rule is None else parse_rule(rule)
    return play(
        as_player(policy, env=environment), environment, episodes=episodes, rule=wanted, num_envs=num_envs
    ).evaluation


def play_randomly(
    environment: Environment,
    *,
    episodes: int | None = None,
    num_envs: int = 16,
    first_seed: int | None = None,
    stop: metrics.StopSignal | None = None,
) -> Evaluation:
    """Scores of uniformly random actions, on the same episodes."""
    player = RandomPlayer(environment)
    return _play(player, environment, episodes, num_envs, first_seed, 0, 1, "random play", stop).evaluation


def environment_of(policy: Acting, environment: Environment | None) -> Environment:
    """Where a policy plays: the recipe given, if it fits, or the policy's own."""
    if environment is None:
        environment = policy.spec.environment
        if environment is None:
            raise MismatchError(f"{policy.spec.name} does not say where it plays; name it with --env")
    check_fits(policy.spec, environment, where=policy.spec.name)
    return environment


def _play(
    player: PolicyPlayer | RandomPlayer,
    environment: Environment,
    episodes: int | None,
    num_envs: int,
    first_seed: int | None,
    keep_states: int,
    stretch: int,
    title: str,
    stop: metrics.StopSignal | None,
) -> Played:
    one_thread_per_role()
    protocol = environment.protocol
    count = protocol.episodes if episodes is None else episodes
    if count < 1 or num_envs < 1:
        raise RecipeError(f"episodes and num_envs must be at least 1, got {count} and {num_envs}")
    start = protocol.first_seed if first_seed is None else first_seed
    stretches = -(-keep_states // stretch)
    queue = (Seat(k, start + k, player.draws, -(-stretches // count), stretch) for k in range(count))
    sizes = [size for size in (-(-min(num_envs, count) // 2), min(num_envs, count) // 2) if size]
    tables = [Table(Stepper(make_vec(environment, size, start)), player) for size in sizes]
    finished: list[Seat] = []
    try:
        with metrics.bar(title, count) as bar:
            while len(finished) < count:
                if stop is not None:
                    stop.check("all that was finished is saved; the same command goes on")
                for table in tables:
                    if table.stepper.in_flight:
                        finished += table.receive()
                        bar.update(len(finished), f"score {np.mean([s.score for s in finished] or [np.nan]):.1f}")
                    table.fill(queue)
                    if any(seat is not None for seat in table.seats):
                        table.send()
    finally:
        for table in tables:
            table.stepper.close()
    finished.sort(key=lambda seat: seat.episode)
    kept = [stretch for seat in finished for stretch in seat.kept()][:stretches]
    visited = [state for stretch in kept for state in stretch]
    evaluation = Evaluation(
        policy="random",
        environment=environment.id,
        protocol=protocol.name,
        rule="uniform",
        scores=tuple(seat.score for seat in finished),
        steps=tuple(seat.step for seat in finished),
        seeds=tuple(seat.seed for seat in finished),
    )
    return Played(evaluation, np.stack(visited) if visited else np.empty(0))
