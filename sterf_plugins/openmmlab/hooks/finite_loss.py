"""Stop a training whose loss is no longer a number, before a checkpoint of it replaces a good one."""

import torch
from mmengine.hooks import Hook

from ...registry import HOOKS


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Raise ``FloatingPointError`` when the loss is NaN or infinite.

    On a GPU the value is read every ``interval`` iterations only, since reading it waits for the device, and always
    before a checkpoint is written.

    Args:
        interval: iterations between checks on a GPU; on a CPU every iteration is checked.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50):
        self.interval = interval
        self._last_outputs: dict | None = None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Check the losses of this iteration."""
        self._last_outputs = outputs
        loss = (outputs or {}).get("loss")
        on_cpu = isinstance(loss, torch.Tensor) and loss.device.type == "cpu"
        if on_cpu or self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the last losses, so that no checkpoint of a diverged training is written."""
        self._check(runner)

    def _check(self, runner) -> None:
        values = {k: v for k, v in (self._last_outputs or {}).items() if isinstance(v, torch.Tensor) and v.numel() == 1}
        bad = [f"{name}={value.item()}" for name, value in values.items() if not torch.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"iteration {runner.iter + 1}: {', '.join(bad)}. The training has diverged; no checkpoint of it was "
                f"written. Lower the learning rate (optim_wrapper.optimizer.lr), lengthen the warm-up, or clip "
                f'gradients (optim_wrapper.clip_grad="dict(max_norm=35)"), and go on with --resume.'
            )
