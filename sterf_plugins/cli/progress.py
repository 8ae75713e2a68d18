"""The progress bars of tools whose work goes input by input, or layer by layer."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def seconds_between_states() -> float:
    """Seconds between two states of a bar that are shown: in a log, which is no terminal, each is a line of its own."""
    return 0.5 if sys.stderr.isatty() else 5


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int, int | None], None]]:
    """A function for the argument ``progress`` that shows a bar, every 5 s without a terminal.

    The bar ends with the context, so that an error begins a line of its own behind it.

    Args:
        label: what stands in front of the bar.
        total: number of all inputs.
    """
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=label, unit="input", file=sys.stderr, mininterval=seconds_between_states()) as bar:
        yield lambda done, _: bar.update(done - bar.n)


@contextmanager
def layers_bar(model: "nn.Module", label: str, delay: float = 5) -> Iterator[None]:
    """A bar of the modules that have run in one pass, which is there only if the pass takes more than ``delay`` seconds."""
    from tqdm.auto import tqdm

    from ..undisturbed import hooked  # which imports torch, as not every tool does

    waiting = set(model.modules())
    with tqdm(
        total=len(waiting), desc=label, unit="layer", file=sys.stderr, delay=delay, mininterval=seconds_between_states()
    ) as bar:

        def count(module: "nn.Module", inputs: object, output: object) -> None:
            if module in waiting:
                waiting.remove(module)
                bar.update()

        with hooked(module.register_forward_hook(count) for module in model.modules()):
            yield
