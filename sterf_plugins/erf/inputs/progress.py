"""Shows how far a computation is: by a bar, by calls of a function, or not at all."""

from collections.abc import Callable
from typing import Any


class Progress:
    """Context manager that is told of finished inputs by ``update``.

    Args:
        show: ``True`` for a tqdm bar, a function that is called with (inputs done, ``total``), or ``False``.
        total: number of all inputs; ``None`` if it is not known.
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
        """Take note that ``count`` more inputs are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif callable(self._show) and count:
            self._show(self._done, self._total)

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()
