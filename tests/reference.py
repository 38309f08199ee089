"""Slow, obvious float64 versions of losses, returns, networks and pictures. They share no code with `rlkd`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import convolve


def kl(p: Sequence[float], log_q: Sequence[float]) -> float:
    """KL(p || q) of probabilities and log-probabilities, nats."""
    return math.fsum(x * (math.log(x) - lq) for x, lq in zip(p, log_q, strict=True) if x > 0)


def tempered_kl(teacher: Sequence[float], student: Sequence[float], ours: float, theirs: float) -> float:
    """KL(softmax(teacher / ours) || softmax(student / theirs)), nats; the two are their temperatures."""
    log_p = log_softmax([logit / ours for logit in teacher])
    return kl([math.exp(value) for value in log_p], log_softmax([logit / theirs for logit in student]))


def reverse_kl(p: Sequence[float], log_q: Sequence[float]) -> float:
    """KL(q || p) of probabilities and log-probabilities, nats."""
    return math.fsum(math.exp(lq) * (lq - math.log(x)) for x, lq in zip(p, log_q, strict=True))


def jensen_shannon(p: Sequence[float], log_q: Sequence[float], beta: float) -> float:
    """Both KL to the mixture beta p + (1 - beta) q, weighed beta and 1 - beta, over beta (1 - beta)."""
    q = [math.exp(lq) for lq in log_q]
    middle = [math.log(beta * x + (1 - beta) * y) for x, y in zip(p, q, strict=True)]
    return (beta * kl(p, middle) + (1 - beta) * kl(q, middle)) / (beta * (1 - beta))


def cross_entropy(p: Sequence[float], log_q: Sequence[float]) -> float:
    """-sum p log q, nats."""
    return -math.fsum(x * lq for x, lq in zip(p, log_q, strict=True))


def decoupled(p: Sequence[float], log_q: Sequence[float], best: float, others: float) -> float:
    """KL of whether it is p's best action, and KL of the other actions among themselves, weighed."""
    place = list(p).index(max(p))
    q = [math.exp(lq) for lq in log_q]
    rest, own = ([x for k, x in enumerate(row) if k != place] for row in (p, q))
    sure = kl([p[place], sum(rest)], [log_q[place], math.log(sum(own))])
    return best * sure + others * kl([x / sum(rest) for x in rest], [math.log(y / sum(own)) for y in own])


def mse(teacher: Sequence[float], student: Sequence[float]) -> float:
    """Mean squared difference."""
    return math.fsum((s - t) ** 2 for t, s in zip(teacher, student, strict=True)) / len(teacher)


def huber_distance(teacher: Sequence[float], student: Sequence[float], delta: float) -> float:
    """Mean of half the squared difference, or of the line that goes on from it where the difference is above delta."""
    return math.fsum(delta**2 * huber((s - t) / delta) for t, s in zip(teacher, student, strict=True)) / len(teacher)


def margin(p: Sequence[float], q: Sequence[float], least: float) -> float:
    """How much the highest of q, others raised by least, is above q at the place of p's highest."""
    best = list(p).index(max(p))
    return max(value + (least if place != best else 0) for place, value in enumerate(q)) - q[best]


def gaussian_kl(
    teacher_mean: Sequence[float],
    teacher_std: Sequence[float],
    student_mean: Sequence[float],
    student_std: Sequence[float],
) -> float:
    """KL of two diagonal Gaussians, nats: the defining integral on a grid, one dimension after the other."""
    total = 0.0
    for mean, std, other_mean, other_std in zip(teacher_mean, teacher_std, student_mean, student_std, strict=True):
        cells, reach = 4000, 12.0  # midpoint rule over 12 standard deviations: the rest weighs 1e-32
        width = 2 * reach * std / cells
        points = [mean - reach * std + (k + 0.5) * width for k in range(cells)]
        total += math.fsum(
            width
            * math.exp(normal_log_density(x, mean, std))
            * (normal_log_density(x, mean, std) - normal_log_density(x, other_mean, other_std))
            for x in points
        )
    return total


def normal_log_density(x: float, mean: float, std: float) -> float:
    """Log density of one normal variable at x, nats."""
    return -((x - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))


def entropy(logits: Sequence[float]) -> float:
    """Entropy of softmax(logits), nats."""
    return -math.fsum(math.exp(lp) * lp for lp in log_softmax(logits))


def ppo_surrogate(log_prob: float, old_log_prob: float, advantage: float, clip: float) -> float:
    """The clipped loss of one sample, to be minimised, by the two cases of figure 1 of arXiv:1707.06347."""
    ratio = math.exp(log_prob - old_log_prob)
    trusted = min(ratio, 1 + clip) if advantage > 0 else max(ratio, 1 - clip)
    return -trusted * advantage


@dataclass(frozen=True)
class Played:
    """One step that was played: where it stands in the rollout, and what it brought."""

    time: int
    reward: float
    value: float
    """Of the observation that was acted on."""
    next_value: float
    """Of the observation that the action led to, also where that is the last one of its episode."""
    terminated: bool
    truncated: bool


def episode_advantages(steps: Sequence[Played], discount: float, gae_lambda: float) -> dict[int, float]:
    """Advantage of each step of one episode (or of the part that a rollout saw), by its `time`.

    The double sum of arXiv:1506.02438, equation 16: no recursion, no mask.
    """
    errors = [step.reward + (0.0 if step.terminated else discount * step.next_value) - step.value for step in steps]
    return {
        step.time: math.fsum((discount * gae_lambda) ** k * error for k, error in enumerate(errors[position:]))
        for position, step in enumerate(steps)
    }


def endless_advantages(
    steps: Sequence[Played], last_value: float, discount: float, gae_lambda: float
) -> dict[int, float]:
    """Advantages of a return that runs on over episodes: all steps as one episode, cut at the end."""
    values = [*(step.value for step in steps), last_value][1:] if steps else []
    joined = [
        Played(step.time, step.reward, step.value, value, terminated=False, truncated=False)
        for step, value in zip(steps, values, strict=True)
    ]
    return episode_advantages(joined, discount, gae_lambda)


def vtrace(
    steps: Sequence[Played], ratios: Sequence[float], discount: float, trace_lambda: float
) -> tuple[dict[int, float], dict[int, float]]:
    """Advantages without their own ratio, and targets, of one episode by time: Espeholt et al., arXiv:1802.01561.

    Equation 1 as a sum of products, both clips at 1, and lambda in the traces as in remark 2.
    """
    clipped = [min(1.0, ratio) for ratio in ratios]
    errors = [step.reward + (0.0 if step.terminated else discount * step.next_value) - step.value for step in steps]
    targets = []
    for s in range(len(steps)):
        terms = [
            math.prod(discount * trace_lambda * c for c in clipped[s:t]) * clipped[t] * errors[t]
            for t in range(s, len(steps))
        ]
        targets.append(steps[s].value + math.fsum(terms))
    excess = [target - step.value for target, step in zip(targets, steps, strict=True)] + [0.0]
    advantages = [error + discount * trace_lambda * after for error, after in zip(errors, excess[1:], strict=True)]
    times = [step.time for step in steps]
    return dict(zip(times, advantages, strict=True)), dict(zip(times, targets, strict=True))


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Log-probabilities."""
    top = max(logits)
    log_total = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
    return [logit - log_total for logit in logits]


def theano_network(picture: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Keras 1 on Theano: true convolutions c1 (stride 2) and c2, dense d and p; picture [C, H, W], float64."""
    x = picture
    for name, stride in (("c1", 2), ("c2", 1)):
        kernels, biases = weights[f"{name}/{name}_W"].astype(float), weights[f"{name}/{name}_b"].astype(float)
        maps = []
        for kernel, bias in zip(kernels, biases, strict=True):
            total = sum(convolve(one, part, mode="valid") for one, part in zip(x, kernel, strict=True))
            maps.append(np.maximum(total[::stride, ::stride] + bias, 0))
        x = np.stack(maps)
    return _dense_layers(x.ravel(), weights)


def channels_last_network(picture: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Keras 2: kernels [rows, columns, input, output], flattened as rows, columns, channels; picture [C, H, W]."""
    x = np.moveaxis(picture, 0, -1)
    for name, stride in (("c1", 2), ("c2", 1)):
        kernel, bias = weights[f"{name}/{name}_W"].astype(float), weights[f"{name}/{name}_b"].astype(float)
        size, _, _, channels = kernel.shape
        rows, columns = ((side - size) // stride + 1 for side in x.shape[:2])
        answer = np.zeros((rows, columns, channels))
        for row in range(rows):
            for column in range(columns):
                patch = x[row * stride : row * stride + size, column * stride : column * stride + size]
                answer[row, column] = np.einsum("rci,rcio->o", patch, kernel) + bias
        x = np.maximum(answer, 0)
    return _dense_layers(x.ravel(), weights)


def _dense_layers(x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    hidden = np.maximum(x @ weights["d/d_W"].astype(float) + weights["d/d_b"], 0)
    answer: np.ndarray = hidden @ weights["p/p_W"].astype(float) + weights["p/p_b"]
    return answer


def grey(colours: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Weighted sum of red, green and blue, [H, W] from [H, W, 3]."""
    red, green, blue = (weight * colours[..., one].astype(float) for one, weight in enumerate(weights))
    found: np.ndarray = red + green + blue
    return found


def triangle_resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing: a triangle around each new pixel's centre, as wide as the step if that is above 1.

    Of 8-bit pictures Pillow rounds twice, behind each of its two passes: half a grey each; here nothing is rounded.
    """
    across = np.stack([_triangle(picture.shape[1], width, new) for new in range(width)])
    down = np.stack([_triangle(picture.shape[0], height, new) for new in range(height)])
    resized: np.ndarray = down @ picture @ across.T
    return resized


def _triangle(old: int, size: int, new: int) -> np.ndarray:
    """Weights of all old pixels in one new pixel; they sum to 1."""
    step = old / size
    centre, reach = (new + 0.5) * step, max(step, 1.0)
    weights = np.array([max(0.0, 1 - abs(pixel + 0.5 - centre) / reach) for pixel in range(old)])
    shares: np.ndarray = weights / weights.sum()
    return shares


def bilinear_resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialiasing: the four old pixels around each new pixel's centre, the border repeated."""
    resized = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = min(max((row + 0.5) * picture.shape[0] / height - 0.5, 0), picture.shape[0] - 1)
            x = min(max((column + 0.5) * picture.shape[1] / width - 0.5, 0), picture.shape[1] - 1)
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, picture.shape[0] - 1), min(left + 1, picture.shape[1] - 1)
            upper = (1 - (x - left)) * picture[top, left] + (x - left) * picture[top, right]
            lower = (1 - (x - left)) * picture[bottom, left] + (x - left) * picture[bottom, right]
            resized[row, column] = (1 - (y - top)) * upper + (y - top) * lower
    return resized


def residual_network(
    picture: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    sections: int,
    blocks: int,
    activation: str,
    hidden_activation: str,
) -> np.ndarray:
    """Features of one picture [C, H, W], as figure 3 of Espeholt et al. 2018 draws the network; one hidden layer.

    Weights go by the numbers of the layers: convolution, maximum, blocks, again for each section, then an activation,
    the flattening, the hidden layer.
    """
    place = 0
    for _ in range(sections):
        picture = _convolved(picture, weights[f"{place}.weight"], weights[f"{place}.bias"])
        picture = _halved(picture)
        for block in range(place + 2, place + 2 + blocks):
            inner = picture
            for layer in (1, 3):
                name = f"{block}.branch.{layer}"
                inner = _convolved(_activated(inner, activation), weights[f"{name}.weight"], weights[f"{name}.bias"])
            picture = picture + inner
        place += 2 + blocks
    flat = _activated(picture, activation).ravel()
    return _activated(weights[f"{place + 2}.weight"] @ flat + weights[f"{place + 2}.bias"], hidden_activation)


def _activated(x: np.ndarray, name: str) -> np.ndarray:
    elu = np.where(x > 0, x, np.exp(np.minimum(x, 0.0)) - 1)
    return np.asarray({"relu": np.maximum(x, 0.0), "tanh": np.tanh(x), "elu": elu}[name])


def _convolved(picture: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3 kernels at every pixel; outside the picture there is nothing."""
    _, height, width = picture.shape
    out = np.zeros((len(weight), height, width))
    for unit, row, column in np.ndindex(*out.shape):
        total = bias[unit]
        for channel, i, j in np.ndindex(*weight.shape[1:]):
            y, x = row + i - 1, column + j - 1
            if 0 <= y < height and 0 <= x < width:
                total += weight[unit, channel, i, j] * picture[channel, y, x]
        out[unit, row, column] = total
    return out


def _halved(picture: np.ndarray) -> np.ndarray:
    """The largest of the 3 x 3 pixels around every second pixel of every second row."""
    channels, height, width = picture.shape
    out = np.zeros((channels, (height + 1) // 2, (width + 1) // 2))
    for channel, row, column in np.ndindex(*out.shape):
        y, x = 2 * row, 2 * column
        out[channel, row, column] = picture[channel, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
    return out


def huber(error: float) -> float:
    """Half the square up to 1, linear beyond: the integral of the error clipped to [-1, 1]."""
    return error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5


def quantile_huber(predicted: Sequence[float], target: Sequence[float]) -> float:
    """Equation 10 of arXiv:1710.10044 with kappa 1: sum over predicted quantiles of the mean over the target's."""
    total = []
    for i, quantile in enumerate(predicted):
        fraction = (2 * i + 1) / (2 * len(predicted))
        pulls = [(1 - fraction if value < quantile else fraction) * huber(value - quantile) for value in target]
        total.append(math.fsum(pulls) / len(target))
    return math.fsum(total)


def importance_weights(probabilities: Sequence[float], count: int, beta: float) -> list[float]:
    """Algorithm 1 of arXiv:1511.05952: (count * P) ** -beta, divided by the largest."""
    weights = [(count * probability) ** -beta for probability in probabilities]
    return [weight / max(weights) for weight in weights]


@dataclass(frozen=True)
class Moved:
    """One step of an episode as it was played."""

    name: int
    """Unlike that of any other observation, a final one too."""
    action: int
    reward: float
    terminated: bool
    """The game is over, or a life was lost that counts as the end."""


def n_step_target(
    episode: Sequence[Moved], start: int, n_step: int, discount: float
) -> tuple[float, float, int | None]:
    """Discounted reward from `start` on, factor of what follows, and where it follows: steps behind `start`.

    None where nothing follows, because it terminated. Behind an episode's last step stands its final observation.
    """
    total = 0.0
    for k, move in enumerate(episode[start : start + n_step]):
        total += discount**k * move.reward
        if move.terminated:
            return total, 0.0, None
    length = min(n_step, len(episode) - start)
    return total, discount**length, length
