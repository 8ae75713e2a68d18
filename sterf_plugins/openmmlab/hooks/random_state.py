"""Random states in checkpoints, so that a resumed training continues bit for bit."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook

from ...registry import HOOKS

KEY = "random_state"


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the states of torch, numpy and Python with each checkpoint; restore them when training resumes.

    Validation is kept from consuming training randomness, since a resumed run does not repeat it, and the data
    loader gets a generator of its own. With ``num_workers=0`` on a CPU a resumed run is then bit-equal to an
    uninterrupted one. Under several processes each has its own state; only rank 0 writes the checkpoint, so the
    others start from states derived from it.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._loaded: dict | None = None
        self._before_val: dict | None = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the states of a resumed checkpoint until training starts."""
        self._loaded = checkpoint.get(KEY)

    def before_train(self, runner) -> None:
        """Give the loader its own generator, and restore the states of a resumed run."""
        loader = runner.train_dataloader
        if loader.generator is None:
            loader.generator = torch.Generator().manual_seed(runner.seed or 0)
        if self._loaded is not None and runner.iter > 0:  # resumed, and not a start from another training's weights
            set_states(self._loaded)
            if get_world_size() > 1 and get_rank() > 0:
                _diverge(get_rank())
        self._loaded = None

    def before_val(self, runner) -> None:
        """Remember the training's random states."""
        self._before_val = get_states()

    def after_val(self, runner) -> None:
        """Put back the training's random states."""
        if self._before_val is not None:
            set_states(self._before_val)
            self._before_val = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add the states to the checkpoint, as tensors and plain numbers."""
        checkpoint[KEY] = get_states()


def get_states() -> dict:
    """States of torch (CPU and CUDA), numpy and Python, in types that ``weights_only`` loading allows."""
    legacy: Any = np.random.get_state()  # numpy's stub knows the form of a dict only
    name, keys, position, has_gauss, cached = legacy
    version, internal, gauss = random.getstate()
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        numpy=[str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        python=[version, list(internal), gauss],
    )


def set_states(states: dict) -> None:
    """Put back states from ``get_states``; those of CUDA only if there are as many GPUs as then."""
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in states["cuda"]])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def _diverge(rank: int) -> None:
    """Set different, reproducible states on the ranks that wrote no checkpoint."""
    seed = (torch.initial_seed() + int(torch.randint(2**31, ())) + rank) % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
