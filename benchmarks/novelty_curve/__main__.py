"""Whether the error of random network distillation falls with how often something was seen.

    make bench NAME=novelty_curve

The toy of Burda et al. 2018 (arXiv:1810.12894, section 2.2) on digits drawn here, 28 x 28, six fonts, turned, moved and
noisy: a predictor learns 2,000 zeros and k pictures of one other digit; its error on other pictures of that digit is
its novelty. Networks (those for vectors), whitening and loss are the bonus's own. The whitening has seen the same
pictures for every k, so that only what was learnt differs; the control is the same predictor before it learns.
Nine seeds, a digit each.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Record, end_with, machine, options, store
from rlkd.explore import Novelty, Steps
from rlkd.policy.compute import add_up, one_thread_per_role
from rlkd.recipe import Bonus
from rlkd.stats import mean_interval

FOLDER = Path(__file__).parent
COMMON, HELD_OUT, BATCH, STEPS, RATE = 2_000, 500, 128, 1_500, 1e-3
COUNTS = (0, 1, 3, 10, 30, 100, 300, 1_000, 2_000)
BONUS = Bonus(features=64, widths=(128,), predictor_widths=(128, 128))
FONTS = (
    *(cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX),
    *(cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX_SMALL),
)


def main() -> int:
    """Train a predictor for each count and seed, and store the curve."""
    chosen = options(__doc__ or "", seeds=9)
    one_thread_per_role()
    errors: dict[int, list[float]] = {count: [] for count in COUNTS}
    untaught: dict[int, list[float]] = {count: [] for count in COUNTS}
    orders = []
    for seed in range(chosen.seeds):
        digit = 1 + seed % 9
        for count in COUNTS:
            before, after = errors_around(count, digit, seed)
            untaught[count].append(before)
            errors[count].append(after)
        mine = [errors[count][-1] for count in COUNTS]
        orders.append(rank_correlation(np.arange(len(COUNTS)), np.array(mine)))
        shown = ", ".join(f"{value:.4f}" for value in mine)
        print(f"seed {seed}, digit {digit}: {shown}; rank correlation {orders[-1]:.3f}", file=sys.stderr, flush=True)
    order = mean_interval(orders)
    told = f"{order.point:.3f} [{order.low:.3f}, {order.high:.3f}], largest {max(orders):.3f}"
    verdict = "met" if max(orders) < -0.9 else "MISSED"
    lines = [
        f"Rank correlation of error and count, {chosen.seeds} seeds: {told}; wanted below -0.9 in each: {verdict}.",
        "",
        "| pictures of the digit among the learnt ones | error on others of it, over that at 0 | before learning |",
        "|---|---|---|",
    ]
    for count in COUNTS:
        cells = []
        for found in (errors, untaught):
            relative = mean_interval([mine / first for mine, first in zip(found[count], found[0], strict=True)])
            cells.append(f"{relative.point:.3f} [{relative.low:.3f}, {relative.high:.3f}]")
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    record: Record = {"machine": machine(), "errors": {str(count): errors[count] for count in COUNTS}}
    record["before learning"] = {str(count): untaught[count] for count in COUNTS}
    store(FOLDER, record | {"rank correlations": orders}, lines)
    return 0


def errors_around(count: int, digit: int, seed: int) -> tuple[float, float]:
    """Mean error on unseen pictures of a digit before and after learning `count` others of it, and all zeros."""
    generator = np.random.default_rng([seed, 0])
    zeros, others = digits(0, COMMON, generator), digits(digit, max(COUNTS), generator)
    unseen = steps(digits(digit, HELD_OUT, generator))
    every = torch.ones(HELD_OUT, dtype=torch.bool)
    novelty = Novelty(BONUS, None, (28 * 28,), None, num_envs=1, rollout_steps=1)
    novelty.initialise(torch.Generator().manual_seed(seed))
    novelty.seen.update(torch.cat([zeros, others]))
    before = novelty.bonus(unseen, every).mean().item()
    learnt = torch.cat([zeros, others[:count]])
    weights = list(novelty.learning.values())
    optimiser = torch.optim.Adam(weights, lr=RATE)
    for _ in range(STEPS):
        rows = torch.from_numpy(generator.integers(len(learnt), size=BATCH))
        loss = novelty.losses(steps(learnt[rows]), torch.zeros(BATCH)).mean()
        add_up(weights, [torch.autograd.grad(loss, weights)])
        optimiser.step()
    return before, novelty.bonus(unseen, every).mean().item()


def steps(pictures: Tensor) -> Steps:
    """Pictures as a bonus reads them."""
    return Steps(None, torch.zeros(len(pictures), dtype=torch.int64), pictures)


def digits(digit: int, count: int, generator: np.random.Generator) -> Tensor:
    """[count, 784] float32, 0 to 255: a digit, drawn in many ways."""
    found = np.zeros((count, 28, 28), np.float32)
    for place in range(count):
        font = FONTS[generator.integers(len(FONTS))]
        scale = generator.uniform(1.2, 1.7) * (1.6 if font == cv2.FONT_HERSHEY_PLAIN else 1.0)
        thick = int(generator.integers(2, 5))
        drawn = cv2.putText(np.zeros((56, 56), np.uint8), str(digit), (14, 44), font, scale, 255, thick, cv2.LINE_AA)
        turn = np.asarray(cv2.getRotationMatrix2D((28, 28), generator.uniform(-20, 20), 1.0), np.float64)
        turn[:, 2] += generator.uniform(-4, 4, size=2)
        small = cv2.resize(cv2.warpAffine(drawn, turn, (56, 56)), (28, 28), interpolation=cv2.INTER_AREA)
        found[place] = (small + generator.normal(0, 8, small.shape)).clip(0, 255)
    return torch.from_numpy(found).flatten(1)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, of values without ties."""
    first, second = (np.argsort(np.argsort(values)) for values in (one, other))
    return float(np.corrcoef(first, second)[0, 1])


if __name__ == "__main__":
    end_with(main)
