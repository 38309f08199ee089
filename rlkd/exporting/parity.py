"""Whether what was exported answers and plays as the policy does: on real observations, then in whole episodes."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlkd import metrics
from rlkd.data import JsonDict
from rlkd.errors import ExportError, RecipeError
from rlkd.evaluation import play
from rlkd.evaluation.check import LIMIT
from rlkd.policy import Acting, Answer, Policy, Rule, decide
from rlkd.policy.compute import one_thread_per_role
from rlkd.policy.rule import NEVER
from rlkd.recipe import Environment
from rlkd.stats import standard_error
from rlkd.vector import Stepper, make_vec

OBSERVATIONS, EPISODES, NUM_ENVS = 10_000, 20, 16
CLEAR_GAP = 1e-4
"""The two best actions of a state are told apart where their logits or Q-values are further apart than this."""
LARGEST_RELATIVE = 1e-5
"""Largest difference of a parameter, in units of its largest value seen. Two orders of a float32 sum of some thousand
terms differ by about 1e-6 of it; a last bias moved by 1e-3 moves answers of size 10 by 1e-4 of it."""
LARGEST_ACTION = 1e-5
"""Largest difference of a continuous action, in units of half the width of its bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two policies answered to the same observations."""

    observations: int
    """How many, all of them real: the first policy met them while it played."""
    largest_difference: float | None = None
    """Largest absolute difference of any parameter; None where only actions can be compared."""
    relative_difference: float | None = None
    """The same in units of the parameter's largest absolute value; None where only actions can be compared."""
    clear_states: int | None = None
    """States that enter the agreement: all, or those with a gap of more than 1e-4 between the two best actions; None
    for continuous actions."""
    agreement: float | None = None
    """Share of those states where both have the same best action; None for continuous actions."""
    action_difference: float | None = None
    """Largest difference of the actions without noise, in units of half the width of their bounds; None for discrete
    actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The parity report: how alike the policy and what was exported are."""

    comparison: Comparison
    """On single observations."""
    environment: str
    """Id of the environment that both played in."""
    rule: str
    """How both picked actions in the replay."""
    episodes: int
    """Episodes that each played, from the same seeds."""
    same_episodes: int
    """Of them, those that ended after the same number of steps with the same score, to four digits."""
    score: float
    """Mean score of the policy."""
    exported_score: float
    """Mean score of what was exported."""
    standard_error: float
    """Of the difference of the two means, taken as independent."""

    def as_json(self) -> JsonDict:
        """All of it in one flat object."""
        record = dataclasses.asdict(self)
        compared: JsonDict = record.pop("comparison")
        return compared | record


@dataclass(frozen=True, slots=True)
class Visited:
    """One step of the walk."""

    observation: np.ndarray
    """[N, ...], raw."""
    first: np.ndarray
    """[N] bool: an episode begins in this row."""
    answer: Answer
    """What the policy said."""


def walk(policy: Acting, environment: Environment, *, observations: int) -> Iterator[Visited]:
    """Play by the policy's own rule from evaluation seeds, 16 environments side by side; yields every step.

    Args:
        policy: who plays.
        environment: where.
        observations: how many to visit, rounded up to whole steps.
    """
    if observations < 1:
        raise RecipeError(f"observations must be at least 1, got {observations}")
    one_thread_per_role()
    generator = np.random.default_rng(environment.protocol.first_seed)
    stepper = Stepper(make_vec(environment, NUM_ENVS, environment.protocol.first_seed))
    try:
        observation, state = stepper.reset(), policy.start(NUM_ENVS)
        first = np.ones(NUM_ENVS, bool)
        with metrics.bar("compare answers", observations) as bar:
            for seen in range(0, observations, NUM_ENVS):
                bar.update(seen)
                if state is not None:
                    state = state * ~first[:, None]
                answer = policy.answer(observation, state)
                yield Visited(observation, first, answer)
                uniforms = generator.random((NUM_ENVS, max(2, 2 * policy.spec.actions)))
                action = decide(policy.spec.kind, answer.params, policy.spec.rule, uniforms)
                step = stepper.step(policy.to_environment(action))
                observation, first, state = step.observation, step.first, answer.state
    finally:
        stepper.close()


def compare_answers(policy: Policy, exported: Acting, environment: Environment, *, observations: int) -> Comparison:
    """Both policies' parameters on the same observations; each carries its own recurrent state.

    Args:
        policy: what was exported; it plays.
        exported: what came out.
        environment: where the observations come from.
        observations: how many.
    """
    names = list(policy.answer(*_blank(policy)).params)
    difference, largest = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    count = clear = same = 0
    action_difference = 0.0
    state = exported.start(NUM_ENVS)
    for visited in walk(policy, environment, observations=observations):
        if state is not None:
            state = state * ~visited.first[:, None]
        other = exported.answer(visited.observation, state)
        state = other.state
        own = visited.answer.params
        count += len(visited.observation)
        for name in names:
            gap = np.abs(own[name].astype(np.float64) - other.params[name]).max()
            difference[name] = _worse(difference[name], float(gap))
            largest[name] = max(largest[name], _size(own[name]))
        if policy.spec.discrete:
            (ours,), (theirs,) = own.values(), other.params.values()
            two_best = np.sort(ours, axis=-1)[:, -2:]
            decided = two_best[:, -1] - two_best[:, 0] > CLEAR_GAP
            clear += int(decided.sum())
            same += int((decided & (ours.argmax(-1) == theirs.argmax(-1))).sum())
        else:
            action_difference = _worse(
                action_difference, action_gap(policy, policy.preferred(own), policy.preferred(other.params))
            )
    relative = {name: _share(difference[name], largest[name]) for name in names}
    return Comparison(
        observations=count,
        largest_difference=max(difference.values()),
        relative_difference=max(relative.values()),
        clear_states=clear if policy.spec.discrete else None,
        agreement=(same / clear if clear else 1.0) if policy.spec.discrete else None,
        action_difference=None if policy.spec.discrete else action_difference,
    )


def replay(
    policy: Acting,
    exported: Acting,
    comparison: Comparison,
    environment: Environment,
    *,
    rule: Rule,
    episodes: int,
) -> Parity:
    """The report: both play the same episodes by one rule.

    Raises:
        RecipeError: fewer than two episodes.
    """
    check_episodes(episodes)
    own = play(policy, environment, episodes=episodes, rule=rule, title="replay the policy").evaluation
    other = play(exported, environment, episodes=episodes, rule=rule, title="replay the export").evaluation
    pairs = zip(own.scores, own.steps, other.scores, other.steps, strict=True)
    spread = [float(np.std(each.scores, ddof=1)) for each in (own, other)]
    return Parity(
        comparison=comparison,
        environment=environment.id,
        rule=str(rule),
        episodes=episodes,
        same_episodes=sum(math.isclose(a, c, rel_tol=1e-4) and b == d for a, b, c, d in pairs),
        score=own.mean,
        exported_score=other.mean,
        standard_error=standard_error(spread[0], episodes, spread[1], episodes),
    )


def check_episodes(episodes: int) -> None:
    """Raise RecipeError where there are too few."""
    if episodes < 2:
        raise RecipeError(f"episodes must be at least 2, got {episodes}: of fewer the scores have no standard error")


def refuse_difference(comparison: Comparison) -> None:
    """Raise ExportError unless the answers are the same but for rounding; NaN is refused."""
    relative = comparison.relative_difference
    if relative is not None and not relative <= LARGEST_RELATIVE:
        raise ExportError(
            f"its answers differ by {comparison.largest_difference:.1e} from the policy's, {relative:.1e} of the "
            f"largest, more than {LARGEST_RELATIVE:g}; nothing was written"
        )
    if comparison.agreement is not None and comparison.agreement < 1:
        raise ExportError(
            f"it takes another action in {1 - comparison.agreement:.2%} of {comparison.clear_states:,} states; "
            "nothing was written"
        )
    moved = comparison.action_difference
    if moved is not None and not moved <= LARGEST_ACTION:
        raise ExportError(
            f"its actions differ by {moved:.1e} from the policy's, more than {LARGEST_ACTION:g} of half the range; "
            "nothing was written"
        )


def refuse_other_score(parity: Parity) -> None:
    """Raise ExportError where the two scores differ by more than chance explains."""
    apart = abs(parity.score - parity.exported_score)
    if not apart <= LIMIT * parity.standard_error:
        raise ExportError(
            f"it scores {parity.exported_score:.2f}, the policy {parity.score:.2f}, on the same {parity.episodes} "
            f"episodes: more than {LIMIT:g} standard errors apart; nothing was written"
        )


def action_gap(policy: Acting, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of continuous actions [B, D], in units of half the width of their bounds."""
    half = (np.array(policy.spec.action_high) - np.array(policy.spec.action_low)) / 2
    half = np.where(np.isfinite(half) & (half > 0), half, 1.0)
    return float((np.abs(ours.astype(np.float64) - theirs) / half).max())


def _size(values: np.ndarray) -> float:
    """Largest absolute value; what stands for an action that a policy does not have is no measure of the others."""
    return float(np.abs(values[values > NEVER / 2], dtype=np.float64).max(initial=0.0))


def _blank(policy: Acting) -> tuple[np.ndarray, np.ndarray | None]:
    shape, dtype = policy.spec.observation_shape, policy.spec.observation_dtype
    return np.zeros((1, *shape), dtype), policy.start(1)


def _worse(before: float, now: float) -> float:
    """The larger; NaN stays NaN."""
    return now if math.isnan(now) or now > before else before


def _share(difference: float, largest: float) -> float:
    if difference == 0:
        return 0.0
    return difference / largest if largest > 0 else math.inf
