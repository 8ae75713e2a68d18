"""Training with FSDP in mmengine's FlexibleRunner: each process has a share of parameters, gradients and states."""

from functools import partial
from pathlib import Path
from typing import Any

import mmengine.runner  # noqa: F401  (registers the strategies)
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from torch.distributed.fsdp import FullyShardedDataParallel

from ...files import replacing
from ...registry import STRATEGIES
from ..configs.types import type_name
from .atomic_backend import AtomicLocalBackend
from .mmengine_internals import replace_clipping

# mmengine leaves it out where it cannot import it with the PyTorch at hand; then only --fsdp is missing.
FSDPStrategy: Any = MMENGINE_STRATEGIES.get("FSDPStrategy") or object


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``, but with checkpoints like those of an unsharded training: one file, always complete.

    Args:
        min_num_params: a module with at least so many parameters becomes a unit, whose parameters are gathered
            together from all processes before they are used, and freed after it.
        **kwargs: arguments of ``FSDPStrategy``.
    """

    def __init__(self, min_num_params: int = 1_000_000, **kwargs):
        policy = dict(
            type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy", min_num_params=int(min_num_params)
        )
        wrapper: dict[str, Any] = dict(type="MMFullyShardedDataParallel", auto_wrap_policy=policy)
        state_dict_cfg: str | dict = "full"
        if not torch.cuda.is_available():
            wrapper["device_id"] = torch.device("cpu")
            # On a CPU, offloading to the CPU makes no copy: weights in the state dict would be freed before they are
            # written, and both of Adam's moments would be saved from the same buffer.
            state_dict_cfg = dict(
                state_dict_type="FULL_STATE_DICT",
                state_dict_config=dict(type="FullStateDictConfig", rank0_only=True, offload_to_cpu=False),
                optim_state_dict_config=dict(type="FullOptimStateDictConfig", rank0_only=True, offload_to_cpu=False),
            )
        super().__init__(**dict(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg) | kwargs)

    def save_checkpoint(self, filename: str, **kwargs) -> None:
        """Save a complete checkpoint: every process must call this, and the main one writes the file."""
        if not is_main_process():
            super().save_checkpoint(filename, **kwargs)
            return
        with replacing(filename) as partial:
            super().save_checkpoint(str(partial), **kwargs)
        AtomicLocalBackend.remove_outdated(Path(filename))

    def build_optim_wrapper(self, optim_wrapper, model=None):
        """As in mmengine, but gradients are clipped by their norm over all processes.

        mmengine would clip each process's share of the gradients by the norm of that share alone.
        """
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        several = isinstance(wrapper, OptimWrapperDict)
        for one in wrapper.optim_wrappers.values() if several else [wrapper]:
            if one.clip_grad_kwargs and one.clip_func is torch.nn.utils.clip_grad_norm_:
                _check_clipping(one.clip_grad_kwargs, several)
                replace_clipping(one, partial(_clip_whole_gradient, one, self.model))
        return wrapper

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """As in mmengine, which however passes PyTorch's arguments in the order that they had before PyTorch 2.1."""
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(sharded)


def _check_clipping(options: dict, several: bool) -> None:
    """Raise ``ValueError`` for clipping by other than the norm of one optimizer's gradients."""
    wrong = sorted(set(options) - {"max_norm", "norm_type"})
    if several or wrong:
        what = "several optimizers that clip" if several else f"clip_grad options {', '.join(wrong)}"
        raise ValueError(
            f"--fsdp cannot work with {what}: the norm is that of all processes' gradients together. Give one optimizer "
            f"with clip_grad=dict(max_norm=…, norm_type=…), or none to clip (--cfg-options optim_wrapper.clip_grad=None)."
        )


def _clip_whole_gradient(wrapper: OptimWrapper, model: FullyShardedDataParallel) -> None:
    """Clip by the norm over all processes; each must call this, even if its share of the parameters has no gradient."""
    norm = model.clip_grad_norm_(**wrapper.clip_grad_kwargs)
    wrapper.message_hub.update_scalar(f"train/{wrapper.grad_name}", float(norm))


def shard(config: Config) -> None:
    """Turn a config into one that trains with ``ShardedStrategy``.

    Raises:
        ValueError: there is one process only, a hook of this package needs the whole model, or the config has a
            strategy of its own.
    """
    if FSDPStrategy is object:
        raise ValueError(f"--fsdp: mmengine has no FSDPStrategy with PyTorch {torch.__version__}; leave it out.")
    if config.launcher == "none":
        raise ValueError(
            "--fsdp shares a model out over processes; start several: bash tools/dist_train.sh CONFIG GPUS --fsdp"
        )
    hooks = {name: h for name, h in (config.get("default_hooks") or {}).items() if h}
    hooks |= {f"custom_hooks[{i}]": h for i, h in enumerate(config.get("custom_hooks") or [])}
    for name, hook in hooks.items():
        if type_name(hook) in ("ERFHook", "FiringRateHook"):
            how = "out of the config" if name.startswith("custom") else f"out (--cfg-options default_hooks.{name}=None)"
            raise ValueError(
                f"{type_name(hook)} ({name}) cannot run under FSDP, where no process has the whole model. Leave it {how} and "
                f"analyse a checkpoint with sterf erf."
            )
    strategy = dict(config.get("strategy") or {})
    strategy.setdefault("type", "sterf_plugins.ShardedStrategy")
    if type_name(strategy) != "ShardedStrategy":
        raise ValueError(
            f"the config has a strategy of its own, {type_name(strategy)}; leave out --fsdp, or the strategy's type."
        )
    config.runner_type, config.strategy = "FlexibleRunner", strategy
