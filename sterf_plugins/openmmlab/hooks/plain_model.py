"""The model that a hook may run on its own."""

from mmengine.model import is_model_wrapper
from torch import nn


def plain_model(runner) -> nn.Module:
    """The runner's model without its DDP wrapper.

    Raises:
        ValueError: the parameters are sharded (FSDP); no process can run the model alone.
    """
    model = runner.model
    if type(model).__name__.endswith("FullyShardedDataParallel"):
        raise ValueError(
            "this hook cannot run under FSDP: the parameters are sharded. Analyse a checkpoint with tools/erf.py or "
            "tools/analysis_tools/get_sops.py instead."
        )
    return model.module if is_model_wrapper(model) else model
