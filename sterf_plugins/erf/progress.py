"""How far a computation is: a bar, a function, or silence."""

from collections.abc import Callable
from typing import Any


class Progress:
    """Context manager with ``update(inputs)``.

    Args:
        show: ``True`` for a tqdm bar, a function of (done, total), or ``False``.
        total: number of inputs, if known.
    """

    def __init__(self, show: bool | Callable[[int, int | None], None], total: int | None):
        self._show = show
        self._total = total
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._show is True:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, desc="erf", unit="input")
        return self

    def update(self, count: int) -> None:
        """So many more inputs are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif callable(self._show) and count:
            self._show(self._done, self._total)

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()
