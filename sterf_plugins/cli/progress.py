"""The progress bar of tools whose work goes input by input."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int, int | None], None]]:
    """A function for the argument ``progress`` that shows a bar, every 5 s without a terminal.

    The bar ends with the context, so that an error begins a line of its own behind it.

    Args:
        label: what stands in front of the bar.
        total: number of all inputs.
    """
    from tqdm.auto import tqdm

    pause = 0.5 if sys.stderr.isatty() else 5
    with tqdm(total=total, desc=label, unit="input", file=sys.stderr, mininterval=pause) as bar:
        yield lambda done, _: bar.update(done - bar.n)
