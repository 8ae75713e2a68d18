"""What hooks ask of a runner: the model that they may run on their own, and how far the training is."""

from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn


def plain_model(runner) -> nn.Module:
    """The runner's model without its DDP wrapper.

    Raises:
        ValueError: the parameters are sharded (FSDP); no process can run the model alone.
    """
    model = runner.model
    if type(model).__name__.endswith("FullyShardedDataParallel"):
        raise ValueError(
            "this hook cannot run under FSDP: the parameters are sharded. Analyse a checkpoint with sterf erf or "
            "sterf get-sops instead."
        )
    return model.module if is_model_wrapper(model) else model


def training_step(runner: Runner) -> int:
    """Epochs done in a training by epochs, else iterations done; ask only while a training runs."""
    return runner.epoch if isinstance(runner.train_loop, EpochBasedTrainLoop) else runner.iter
