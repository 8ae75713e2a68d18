"""Running mean or median over inputs, with standard errors, also of the numbers that are derived from them."""

import numpy as np

GROUPS = 10


class Estimate:
    """Mean or median of arrays that come one per input.

    The sums are kept in groups of inputs (input i in group i mod 10), so that the standard error of any number that
    is computed from the mean follows by leaving out one group at a time (delete-a-group jackknife).

    Args:
        aggregate: "mean", or "median", which keeps all arrays in memory.
        grouped: ``False`` to save memory by keeping a single sum, which gives a mean without errors.

    Attributes:
        count: number of inputs so far.
        counts: (10,) number of inputs in each group; not kept for the median.
        sums: (10, ...) sums over each group, or (1, ...) without groups; ``None`` before the first input.
        squares: sum over all inputs of the squared arrays, for the standard error.
        values: all arrays so far, in float32; kept for the median alone.
    """

    def __init__(self, aggregate: str = "mean", grouped: bool = True):
        self.aggregate = aggregate
        self.grouped = grouped
        self.count = 0
        self.counts = np.zeros(GROUPS, int)
        self.sums: np.ndarray | None = None
        self.squares: np.ndarray | None = None
        self.values: list[np.ndarray] = []

    def add(self, batch: np.ndarray) -> None:
        """Take in the float64 arrays (B, ...) of B inputs."""
        if self.aggregate == "median":
            self.values.extend(np.asarray(batch, np.float32))
            self.count += len(batch)
            return
        if self.sums is None:
            self.sums = np.zeros((GROUPS if self.grouped else 1, *batch.shape[1:]))
            self.squares = np.zeros(batch.shape[1:] if self.grouped else ())
        assert self.squares is not None
        for value in batch:
            group = self.count % GROUPS if self.grouped else 0
            self.sums[group] += value
            self.counts[group] += 1
            if self.grouped:
                self.squares += value * value
            self.count += 1

    def merge(self, other: "Estimate") -> None:
        """Take in another estimate's inputs, grouped as if they had come after those of this one."""
        shift = self.count % GROUPS if self.grouped else 0  # the group of the other estimate's first input
        self.count += other.count
        self.counts = self.counts + np.roll(other.counts, shift)
        self.values.extend(other.values)
        if other.sums is not None:
            sums = np.roll(other.sums, shift, axis=0)
            self.sums = sums if self.sums is None else self.sums + sums
            self.squares = other.squares if self.squares is None else self.squares + other.squares

    def value(self) -> np.ndarray:
        """The mean or median over all inputs so far, float64."""
        if self.aggregate == "median":
            return np.median(np.stack(self.values), axis=0).astype(np.float64)
        assert self.sums is not None
        return self.sums.sum(0) / self.count

    def standard_error(self) -> np.ndarray | None:
        """Standard error of every element of ``value()``: NaN for a single input, ``None`` if ``grouped`` is ``False``.

        That of a median is taken as 1.2533 times that of a mean, which holds for normally distributed values; their
        standard deviation is estimated as 1.4826 times the median absolute deviation.
        """
        if not self.grouped:
            return None
        if self.aggregate == "median":
            values = np.stack(self.values).astype(np.float64)
            if self.count < 2:
                return np.full(values.shape[1:], np.nan)
            spread = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
            return 1.2533 * 1.4826 * spread / np.sqrt(self.count)
        assert self.sums is not None and self.squares is not None
        if self.count < 2:
            return np.full(self.squares.shape, np.nan)
        variance = np.maximum(self.squares / self.count - self.value() ** 2, 0)
        return np.sqrt(variance / (self.count - 1))

    def relative_error(self) -> float:
        """Norm of the standard error over the norm of the estimate; infinite before the second input.

        It is 0 for an estimate that is zero or not finite, which more inputs do not change.
        """
        error = self.standard_error()
        if error is None or self.count < 2:
            return float("inf")
        norm = np.linalg.norm(self.value())
        return float(np.linalg.norm(error) / norm) if norm > 0 and np.isfinite(norm) else 0.0

    def without_groups(self) -> list[np.ndarray]:
        """The estimate with each group of inputs left out in turn; empty below two groups."""
        if not self.grouped or self.count < 2:
            return []
        groups = range(min(GROUPS, self.count)) if self.aggregate == "median" else np.flatnonzero(self.counts)
        if self.aggregate == "median":
            values = np.stack(self.values)
            member = np.arange(self.count) % GROUPS
            return [np.median(values[member != g], axis=0).astype(np.float64) for g in groups]
        assert self.sums is not None
        if len(groups) < 2:
            return []
        total = self.sums.sum(0)
        return [(total - self.sums[g]) / (self.count - self.counts[g]) for g in groups]

    def group_masses(self) -> list[float]:
        """How much each group of inputs, as in ``without_groups``, contributes to a mean: the sum of its absolute sums.

        A median does not depend on how large its values are; each group contributes its number of inputs.
        """
        if self.sums is None:
            return [float(size) for size in group_sizes(self.count)]
        return [float(np.abs(self.sums[g]).sum()) for g in np.flatnonzero(self.counts)]

    def state(self) -> dict[str, np.ndarray]:
        """The estimate as arrays by name, from which ``restore`` continues."""
        state = {"count": np.array(self.count), "counts": self.counts}
        if self.aggregate == "median":
            state["values"] = np.stack(self.values) if self.values else np.zeros(0)
        elif self.sums is not None and self.squares is not None:
            state |= {"sums": self.sums, "squares": self.squares}
        return state

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the arrays that ``state`` returned."""
        self.count, self.counts = int(state["count"]), state["counts"].copy()
        if self.aggregate == "median":
            self.values = list(state["values"])
        elif "sums" in state:
            self.sums, self.squares = state["sums"].copy(), state["squares"].copy()


def group_sizes(count: int) -> list[int]:
    """Number of inputs in each group that has some."""
    return [len(range(group, count, GROUPS)) for group in range(min(GROUPS, count))]
