"""A process that has imported the libraries, made ready to run many short trainings.

Three things that OpenMMLab does anew for each training take longer than its few iterations: it lays out the text of the
config several times, it reads the list of all configs of a package for each base, and it collects garbage for each data
set among everything that was ever imported. None of them changes what a training computes, and tools that are tested in
a process of their own do all three. Python, too, looks for garbage less often here: while libraries are imported, of
which nothing is garbage, it does not at all, if ``gc.disable()`` is called before.
"""

import functools
import gc
import sys
from types import SimpleNamespace


def prepare_for_many_runs() -> None:
    """Leave configs as ``repr`` writes them, keep lists of configs, and take what is imported by now for no garbage."""
    if "mmengine.config.utils" in sys.modules:
        from mmengine.config import utils
        from yapf.yapflib import yapf_api

        utils.load = functools.cache(utils.load)
        yapf_api.FormatCode = _checked
    if "mmengine.dataset.base_dataset" in sys.modules:
        from mmengine.dataset import base_dataset

        base_dataset.gc = SimpleNamespace(collect=lambda: gc.collect(0))
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def _checked(text: str, **options: object) -> tuple[str, bool]:
    """The text as it is, if it is Python, with yapf's answer to whether it was changed."""
    compile(text, "config", "exec")
    return text, False
