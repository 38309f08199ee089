"""Which rows of a memory are worth seeing again: proportional priorities over a sum tree.

Source: Schaul et al. 2016, arXiv:1511.05952, section 3.3 and appendix B.2.1.
"""

import numpy as np

LEAST = 1e-6
"""Added to every error, so that no row is never seen again."""


class SumTree:
    """Numbers at rows, their sums above them; all operations take whole batches and log2(size) steps."""

    def __init__(self, size: int) -> None:
        """Zeros at `size` rows."""
        self.leaves = 1 << max(size - 1, 1).bit_length()
        self._sums = np.zeros(2 * self.leaves)  # the node i stands above 2 i and 2 i + 1; row r is node leaves + r

    @property
    def total(self) -> float:
        """Sum over all rows."""
        return float(self._sums[1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Values at rows, float64."""
        values: np.ndarray = self._sums[self.leaves + rows]
        return values

    def set(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write values at rows; of a row that comes twice the last value stays. Sums are added up anew: no drift."""
        node = self.leaves + rows
        self._sums[node] = values
        while node.size and node[0] > 1:
            node = node >> 1
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The row at which the running sum from row 0 passes each mass.

        Args:
            mass: [B] float64 in [0, total).

        Returns:
            [B] int64. Never a row of value 0, whatever the rounding, while any value is above 0.
        """
        node, mass = np.ones(len(mass), np.int64), mass.copy()
        while node.size and node[0] < self.leaves:
            left, right = self._sums[2 * node], self._sums[2 * node + 1]
            beyond = (mass >= left) & (right > 0)
            mass -= np.where(beyond, left, 0.0)
            node = 2 * node + beyond
        return node - self.leaves


class Priorities:
    """The chance of each row to be drawn: its last error to the power of alpha, of rows not seen yet the largest."""

    def __init__(self, rows: int, *, alpha: float) -> None:
        """No row can be drawn yet.

        Args:
            rows: how many.
            alpha: 0 draws all alike, 1 in proportion to errors.
        """
        self.alpha = alpha
        self.largest = 1.0
        """Highest priority so far, which rows get that enter."""
        self._tree = SumTree(rows)

    def replace(self, leaving: np.ndarray, entering: np.ndarray) -> None:
        """Rows [K] that can be drawn no more, and rows [L] that can be drawn from now on."""
        values = np.concatenate([np.zeros(len(leaving)), np.full(len(entering), self.largest)])
        self._tree.set(np.concatenate([leaving, entering]), values)

    def draw(self, batch: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B] int64, one from each of B equal parts of all priorities, and the chance [B] of each."""
        total = self._tree.total
        mass = (np.arange(batch) + generator.random(batch)) * (total / batch)
        rows = self._tree.find(mass)
        return rows, self._tree[rows] / total

    def update(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Note the errors [B], at least 0, that rows [B] had when they were last learnt from."""
        values = (errors + LEAST) ** self.alpha
        self.largest = max(self.largest, float(values.max()))
        self._tree.set(rows, values)
