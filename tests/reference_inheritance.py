"""A child beside its teacher once more: slow, obvious, float64, from the definitions. It shares no code with `rlkd`."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

Rows = Sequence[Sequence[float]]


def calibration_error(confidence: Sequence[float], accuracy: Sequence[float]) -> float:
    """Gap between mean accuracy and mean confidence in each fifteenth of (0, 1], weighed by how many are in it."""
    total = 0.0
    for k in range(15):
        inside = [s for s, value in enumerate(confidence) if k / 15 < value <= (k + 1) / 15]
        if inside:
            sure = math.fsum(confidence[s] for s in inside) / len(inside)
            right = math.fsum(accuracy[s] for s in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(right - sure)
    return total


def alignment(features: np.ndarray, others: np.ndarray) -> float:
    """CKA as HSIC over the root of both HSIC with themselves, by traces of Gram matrices centred by H = 1 - 1/n."""
    n = len(features)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return float(np.trace(k @ h @ m @ h)) / (n - 1) ** 2

    k, m = features @ features.T, others @ others.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of the roots of the scatter matrix's eigenvalues, over their sum."""
    centred = features - features.mean(0)
    roots = [math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(centred.T @ centred)]
    shares = [root / math.fsum(roots) for root in roots]
    return math.exp(-math.fsum(share * math.log(share) for share in shares if share > 0))


def diversity(policies: Sequence[Rows]) -> tuple[float, float]:
    """Mean disagreement and Jensen-Shannon divergence over pairs: entropy of the middle less the middle entropy."""
    apart, divergence = [], []
    for one, other in combinations(policies, 2):
        for p, q in zip(one, other, strict=True):
            apart.append(float(np.argmax(p) != np.argmax(q)))
            middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
            divergence.append(entropy(middle) - (entropy(p) + entropy(q)) / 2)
    return float(np.mean(apart)), float(np.mean(divergence))


def entropy(p: Sequence[float]) -> float:
    """Nats."""
    return -math.fsum(x * math.log(x) for x in p if x > 0)


def gradient_variances(teacher: Rows, student: Rows) -> tuple[float, float, float]:
    """Traces of covariance matrices: of p_S - p_T over states; of p_S - onehot(y) over states and labels; and the mean
    over states of that over labels alone."""
    soft = [np.subtract(q, p) for p, q in zip(teacher, student, strict=True)]
    hard, weights, within = [], [], []
    for p, q in zip(teacher, student, strict=True):
        labelled = [np.subtract(q, np.eye(len(p))[y]) for y in range(len(p))]
        within.append(_trace(labelled, list(p)))
        hard += labelled
        weights += [x / len(teacher) for x in p]
    return _trace(soft, [1 / len(soft)] * len(soft)), _trace(hard, weights), float(np.mean(within))


def _trace(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> float:
    """Of the covariance matrix of weighed vectors."""
    mean = sum(w * v for w, v in zip(weights, vectors, strict=True))
    return float(np.trace(sum(w * np.outer(v - mean, v - mean) for w, v in zip(weights, vectors, strict=True))))


def knowledge_steps(teacher: Rows) -> list[float]:
    """Mean squared changes from onehot to even smoothing, on to the teacher's confidence, on to its whole answer; last
    that from onehot to the whole answer."""
    actions = len(teacher[0])
    lost = float(np.mean([1 - max(p) for p in teacher]))
    changes: list[list[float]] = [[], [], [], []]
    for p in teacher:
        best = int(np.argmax(p))
        chain = [
            [1.0 if a == best else 0.0 for a in range(actions)],
            [1 - lost if a == best else lost / (actions - 1) for a in range(actions)],
            [max(p) if a == best else (1 - max(p)) / (actions - 1) for a in range(actions)],
            list(p),
        ]
        for step, (now, then) in enumerate([(0, 1), (1, 2), (2, 3), (0, 3)]):
            changes[step].append(math.fsum((x - y) ** 2 for x, y in zip(chain[now], chain[then], strict=True)))
    return [math.fsum(each) / len(teacher) for each in changes]


def nearest_distances(features: np.ndarray, reference: np.ndarray) -> list[float]:
    """Of each row the least Euclidean distance to a row of the reference."""
    return [min(math.dist(row, known) for known in reference) for row in features]
