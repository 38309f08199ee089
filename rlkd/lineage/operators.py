"""How one generation makes the next: from what a line has in common to its steps, in the order in which they are made.

Each operator is a function of a `Chain` with its numbers as keyword arguments. Nothing runs here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from rlkd.errors import RecipeError
from rlkd.lineage.step import FIRST, Chain, Step
from rlkd.recipe import Part, suggest
from rlkd.terms.parts import settled


def fresh(chain: Chain) -> Iterator[Step]:
    """Each student, with new weights, learns from its predecessor.

    Born-again networks, Furlanello et al. 2018, arXiv:1805.04770.
    """
    for number in chain.numbers:
        yield chain.step(number, "distil", (chain.name(number - 1),))


def ensemble(chain: Chain) -> Iterator[Step]:
    """As `fresh`; then all students together, as the mean of their probabilities (section 3.2 of the same)."""
    yield from fresh(chain)
    yield together(chain)


def together(chain: Chain) -> Step:
    """All students of a line as one policy."""
    members = tuple(chain.name(number) for number in chain.numbers)
    return chain.step(chain.numbers[-1], "combine", members, role="ensemble")


def reset(chain: Chain, *, mask: str, share: float) -> Iterator[Step]:
    """Knowledge Evolution: each student begins with its predecessor's weights, a part of them drawn anew; all learn the
    first teacher's answers to the same states. Of `kels` each generation's kept part is cut out as a smaller network.

    Taha et al. 2021, arXiv:2103.05152.

    Args:
        chain: of the steps.
        mask: `kels`, the first channels of each layer are kept; `wels`, weights by chance.
        share: of each layer's width (kels), or of all weights (wels).
    """
    if mask not in ("kels", "wels"):
        raise RecipeError(f"operator 'reset': mask must be 'kels' or 'wels', got '{mask}'")
    kept = Part(mask, {"share": share} | ({"mask_seed": chain.line_seed} if mask == "wels" else {}))  # one mask a line
    for number in chain.numbers:
        start = "" if number == 1 else chain.name(number - 1)
        yield chain.step(number, "distil", (FIRST,), start=start, change=kept if start else None, same_data=True)
        if mask == "kels":
            yield chain.step(number, "slim", (chain.name(number),), role="slim", change=kept)
    yield from directly(chain, same_data=True)


def perturb(chain: Chain, *, keep: float, noise: float) -> Iterator[Step]:
    """Each student begins with its predecessor's weights, shrunk and with noise, and learns from it.

    Shrink and perturb, Ash and Adams 2020, arXiv:1910.08475.

    Args:
        chain: of the steps.
        keep: what old weights are multiplied by.
        noise: what new weights, which are added, are multiplied by.
    """
    for number in chain.numbers:
        before = chain.name(number - 1)
        start = "" if number == 1 else before
        change = Part("perturb", {"keep": keep, "noise": noise}) if start else None
        yield chain.step(number, "distil", (before,), start=start, change=change)


def shrink(chain: Chain) -> Iterator[Step]:
    """Teacher assistants: each student is smaller than its teacher, in equal ratios of parameters, down to the recipe's
    student; beside it that one learns from the first teacher, with as many gradient steps as the whole chain.

    Mirzadeh et al. 2020, arXiv:1902.03393.
    """
    for number in chain.numbers:
        yield chain.step(number, "distil", (chain.name(number - 1),), network=chain.between[number - 1])
    yield from directly(chain)


def sequence(chain: Chain) -> Iterator[Step]:
    """A student of the recipe's size learns from its predecessor; all but the last one have half the gradient steps,
    and a whole schedule of the learning rate in them. Beside it one learns from the first teacher, with as many steps.

    Sequential distillation, Cho and Hariharan 2019, arXiv:1910.01348: that such chains do not help is their finding.
    """
    for number in chain.numbers:
        share = 1.0 if number == chain.numbers[-1] else 0.5
        yield chain.step(number, "distil", (chain.name(number - 1),), share=share)
    yield from directly(chain, share=(len(chain.numbers) + 1) / 2)


def directly(chain: Chain, *, share: float | None = None, same_data: bool = False) -> Iterator[Step]:
    """A student of the first teacher with the gradient steps of the whole line, or so many times the recipe's; none
    where that is the first generation's student once more."""
    last = chain.numbers[-1]
    share = float(last) if share is None else share
    if share != 1:
        yield chain.step(last, "distil", (FIRST,), role="longer", share=share, same_data=same_data)


def residual(chain: Chain, *, assistant: str) -> Iterator[Step]:
    """A student learns from the first teacher; an assistant beside it learns what the student's scores lack; the sum of
    both is the second generation, from which a student of the first one's size learns again.

    After the survey of Gou et al. 2021, arXiv:2006.05525, which names no formula.

    Args:
        chain: of the steps.
        assistant: network recipe of the assistant.
    """
    for number in chain.numbers:
        student = chain.name(number, "student")
        before = FIRST if number == 1 else chain.name(number - 1)
        yield chain.step(number, "distil", (before,), role="student")
        change = Part("beside", {"assistant": assistant})
        yield chain.step(number, "distil", (FIRST,), start=student, change=change)
    yield from directly(chain, share=2.0 * len(chain.numbers))


def select(chain: Chain, *, shares: tuple[float, ...]) -> Iterator[Step]:
    """Early-stopped selection: of each generation several students, with different shares of the gradient steps, each
    with a whole schedule of the learning rate; that which scores best on episodes of its own teaches the next.

    Cho and Hariharan 2019, arXiv:1910.01348.

    Args:
        chain: of the steps.
        shares: of the recipe's gradient steps.
    """
    if len({round(100 * share) for share in shares}) < max(2, len(shares)) or min(shares) <= 0:
        told = f"two or more above 0 that differ by a hundredth at least, got {list(shares)}"
        raise RecipeError(f"operator 'select': shares must be {told}")
    for number in chain.numbers:
        roles = [f"stop{round(100 * share):03d}" for share in shares]
        for role, share in zip(roles, shares, strict=True):
            yield chain.step(number, "distil", (chain.name(number - 1),), role=role, share=share)
        yield chain.step(number, "select", tuple(chain.name(number, role) for role in roles))


def improve(chain: Chain) -> Iterator[Step]:
    """Each predecessor plays on and learns from rewards, or from a bonus for what is new; a student with new weights
    learns from who comes of that, and has no head for a bonus. From its weights the next one plays on."""
    for number in chain.numbers:
        better = chain.name(number, "trained")
        yield chain.step(number, "train", start=chain.name(number - 1), role="trained")
        yield chain.step(number, "distil", (better,))


def iterate(chain: Chain) -> Iterator[Step]:
    """ITER: each policy, with new weights, learns from rewards and from its predecessor, less and less from that.

    Igl et al. 2021, arXiv:2006.05826.
    """
    for number in chain.numbers:
        yield chain.step(number, "train", (chain.name(number - 1),))


def follow(chain: Chain) -> Iterator[Step]:
    """Online policy distillation: a teacher goes on learning from rewards; one student, with the weights that it has,
    learns from the best of what the teacher has been so far.

    Rusu et al. 2016, arXiv:1511.06295, section 4.4.
    """
    for number in chain.numbers:
        teacher, best = (chain.name(number, role) for role in ("trained", "best"))
        before, known = (FIRST, FIRST) if number == 1 else (chain.name(number - 1, r) for r in ("trained", "best"))
        yield chain.step(number, "train", start=before, role="trained")
        yield chain.step(number, "select", (known, teacher), role="best")
        yield chain.step(number, "distil", (best,), start="" if number == 1 else chain.name(number - 1))


@dataclass(frozen=True, slots=True)
class Operator:
    """How one generation makes the next."""

    steps: Callable[..., Iterator[Step]]
    """From a chain to its steps."""
    trains: bool = False
    """Whether somebody learns from rewards."""
    starts: bool = False
    """Whether the first teacher's own weights are trained on."""
    sizes: bool = False
    """Whether students have sizes between those of teacher and student."""
    distils: bool = True
    """Whether anybody is a student; else `student` and `distill` of the recipe say nothing."""
    together: bool = False
    """Whether several policies become one: their actions have to be discrete, and none may remember."""


OPERATORS = {
    "fresh": Operator(fresh),
    "ensemble": Operator(ensemble, together=True),
    "reset": Operator(reset),
    "perturb": Operator(perturb),
    "shrink": Operator(shrink, sizes=True),
    "sequence": Operator(sequence),
    "residual": Operator(residual, together=True),
    "select": Operator(select),
    "improve": Operator(improve, trains=True, starts=True),
    "iterate": Operator(iterate, trains=True, distils=False),
    "follow": Operator(follow, trains=True, starts=True),
}


def operator_of(part: Part) -> tuple[Operator, Part]:
    """The operator that a recipe names, and the recipe's part with all its numbers.

    Raises:
        RecipeError: there is none of that name, or its numbers do not fit.
    """
    if part.name not in OPERATORS:
        raise RecipeError(f"no operator '{part.name}'{suggest(part.name, OPERATORS)}")
    operator = OPERATORS[part.name]
    return operator, settled(part, operator.steps, "operator")


def plan(chain: Chain) -> list[Step]:
    """The steps of one line, its arms behind the main line.

    Raises:
        RecipeError: numbers of the operator that cannot be.
    """
    operator, part = operator_of(chain.rule.operator)
    steps = list(partial(operator.steps, **part.values)(chain))
    for arm in chain.rule.arms:
        if arm == "longer":
            steps += directly(chain)
        elif arm == "ensemble":
            steps.append(together(chain))
        else:
            steps += fresh(replace(chain, arm=arm))
    return steps
