"""What all steps of a lineage share, and what is checked before any of them runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Generator

from rlkd import recipe, storage
from rlkd.errors import MismatchError, RecipeError
from rlkd.learn.ppo import check_start, policy_spec
from rlkd.learn.teaching import Teaching
from rlkd.lineage.operators import operator_of, plan
from rlkd.lineage.step import Chain, Step
from rlkd.policy import Policy, kels_masks, networks_between, wels_masks
from rlkd.recipe import MAX_MEMBERS, Distill, Environment, Generations, Network, Part, Ppo, Term, recipe_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What all steps of a run share."""

    run: Path
    """The run's folder."""
    environment: Environment
    """Where everybody plays."""
    rule: Generations
    """How one generation makes the next."""
    distilling: Distill
    """The distillation by which students learn."""
    training: Ppo | None
    """How somebody learns from rewards; None: nobody does."""
    network: Network
    """The students' network."""
    assistant: Network | None
    """What stands beside a student, where the operator names one."""
    seed: int
    """Of the run."""
    episodes: int | None
    """Per evaluation; None takes the protocol's."""
    device: str
    """`auto`, `cpu` or `cuda`."""

    def identity(self, founder: Policy) -> str:
        """What a run folder must share with a lineage that goes on in it."""
        # How many generations, arms and lines is left out: a finished lineage may be asked for more of them.
        rule = replace(self.rule, generations=1, arms=())
        recipes = [rule, self.distilling, self.environment, self.network, *([self.training] if self.training else [])]
        recipes += [self.assistant] if self.assistant else []  # a file of the user's own may change
        parts = [recipe_hash(part) for part in recipes]
        return storage.sha256(" ".join([*parts, founder.spec.hash, str(self.seed), str(self.episodes)]).encode())

    def steps(self, founder: Policy, lines: int) -> list[Step]:
        """All steps, line by line: those of a generation before those of the next.

        Raises:
            RecipeError: numbers of the operator, or sizes, that cannot be.
        """
        operator, _ = operator_of(self.rule.operator)
        sizes: Sequence[Network] = ()
        if operator.sizes:
            spec, count = founder.spec, self.rule.generations - 1
            shape, kind = spec.observation_shape, spec.kind
            inner: Sequence[Network] = ()
            if count:
                inner = networks_between(
                    spec.network.acting, self.network, count, observation_shape=shape, kind=kind, actions=spec.actions
                )
            sizes = (*inner, self.network)
        found = []
        for line in range(lines):
            chain = Chain(
                rule=self.rule,
                seed=self.seed,
                student=self.network,
                between=tuple(sizes),
                line=line,
            )
            found += plan(chain)
        return found


def lineage_of(
    rule: Generations,
    founder: Policy,
    environment: Environment,
    distilling: Distill,
    *,
    run: Path,
    seed: int,
    episodes: int | None,
    device: str,
) -> Lineage:
    """A lineage whose recipes fit together and the first teacher.

    Raises:
        RecipeError: an unknown operator, or recipes that do not belong together.
        MismatchError: nobody can train on from the first teacher's weights.
    """
    operator, part = operator_of(rule.operator)
    if not operator.distils and (rule.student != "same" or rule.distill is not None):
        raise RecipeError(f"operator '{part.name}' distils nothing; leave out student and distill")
    training = _training(rule, trains=operator.trains)
    if training is not None:
        spec = policy_spec(environment, training, origin="")
        if operator.starts:
            if rule.student != "same":
                raise RecipeError(f"operator '{part.name}' takes student = 'same': weights go on")
            check_start(founder, spec)
        if (training.terms is not None) == operator.starts:
            needs = "terms, by which it learns from its predecessor" if not operator.starts else "no terms"
            raise RecipeError(f"operator '{part.name}' needs a PPO recipe with {needs}; '{rule.train}' is another")
        if training.terms is not None:
            Teaching(founder, spec, training)
    network = founder.spec.network.acting if rule.student == "same" else recipe.load(rule.student, Network)
    assistant = part.values.get("assistant")
    student = replace(founder.spec, network=network)
    if part.name == "reset":
        share = float(part.values["share"])  # type: ignore[arg-type]  # a number
        _ = kels_masks(student, share) if part.values["mask"] == "kels" else wels_masks(student, share, Generator())
    _check_together(rule, founder, network, together=operator.together or "ensemble" in rule.arms)
    _check_arms(rule, founder, distilling)
    return Lineage(
        run=run,
        environment=environment,
        rule=replace(rule, operator=part),
        distilling=distilling,
        training=training,
        network=network,
        assistant=None if assistant is None else recipe.load(str(assistant), Network),
        seed=seed,
        episodes=episodes,
        device=device,
    )


def _check_together(rule: Generations, founder: Policy, network: Network, *, together: bool) -> None:
    """Raise MismatchError where several policies cannot be one."""
    if not together:
        return
    if not founder.spec.discrete or network.core != "none":
        what = "remember" if founder.spec.discrete else "answer with continuous actions"
        raise MismatchError(
            f"students that {what} cannot be put together into one policy; leave that operator or arm out"
        )
    if rule.generations > MAX_MEMBERS:
        raise RecipeError(f"at most {MAX_MEMBERS} generations can be put together, got {rule.generations}")


def _check_arms(rule: Generations, founder: Policy, distilling: Distill) -> None:
    """Raise RecipeError or MismatchError where arms would differ from the main line by more than they are about."""
    learning = [arm for arm in rule.arms if arm in ("smoothed", "permuted", "confidence")]
    if learning and not founder.spec.discrete:
        raise MismatchError(f"arms compare answers to discrete actions, those of {founder.spec.name} are continuous")
    if "permuted" in learning and founder.spec.actions < 3:
        raise RecipeError(f"arm 'permuted' needs three actions, here are {founder.spec.actions}: leave it out")
    plain = [Term(divergence=Part(name)) for name in ("forward_kl", "cross_entropy")]
    if learning and (len(distilling.terms) > 1 or distilling.terms[0] not in plain):
        raise RecipeError(
            f"arms are compared with whole answers as they are: {', '.join(learning)} need a distillation by one plain "
            "term, forward_kl or cross_entropy"
        )


def _training(rule: Generations, *, trains: bool) -> Ppo | None:
    """How somebody learns from rewards."""
    if trains != (rule.train is not None):
        name = rule.operator.name
        why = f"operator '{name}' needs train, the name of a PPO recipe" if trains else "train belongs to operators"
        raise RecipeError(f"{why}; `rlkd list agents` shows those of rl/, explore/ and distill/")
    if rule.train is None:
        return None
    training = recipe.load(rule.train, Ppo)
    return training if rule.train_frames is None else replace(training, frames=rule.train_frames)
