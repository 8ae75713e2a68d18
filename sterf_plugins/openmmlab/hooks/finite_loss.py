"""Stop a training whose loss is no longer a number, and tell of one whose gradients are clipped to nothing."""

import torch
from mmengine.hooks import Hook

from ...checks import positive_int
from ...registry import HOOKS

_REMEDY = (
    "Clip gradients (--cfg-options optim_wrapper.clip_grad.max_norm=35) and go on with --resume, or lower the learning "
    "rate (optim_wrapper.optimizer.lr) or lengthen the warm-up and start again: --resume would bring the old ones back."
)
LARGEST_RATIO = 1e8  # of a gradients' norm to the norm that it is clipped to


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Raise ``FloatingPointError`` when the loss is NaN or infinite, and warn once of gradients that clipping loses.

    Clipping multiplies all gradients by ``max_norm`` over their norm. If the norm is infinite, or larger by more than
    float32 can carry through an optimizer, nothing is learnt, and the loss does not tell; nor does it if the norm is 0.

    On a GPU the value is read every ``interval`` iterations only, since reading it waits for the device, and always
    before a checkpoint is written.

    Args:
        interval: iterations between checks on a GPU; on a CPU every iteration is checked.

    Raises:
        ValueError, TypeError: ``interval`` is out of range.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50):
        self.interval = positive_int("interval", interval)
        self._last_outputs: dict | None = None
        self._lost, self._warned = 0, False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Check the losses of this iteration."""
        self._last_outputs = outputs
        loss = (outputs or {}).get("loss")
        on_cpu = isinstance(loss, torch.Tensor) and loss.device.type == "cpu"
        if on_cpu or self.every_n_train_iters(runner, self.interval):
            self._check(runner)
        self._look_at_gradients(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the last losses and all weights, so that no checkpoint of a diverged training is written.

        A neuron makes no spike of a membrane potential that is NaN, so that the loss does not tell of weights in front of it.
        """
        self._check(runner)
        entries = checkpoint.get("state_dict", {}).items()
        lost = [name for name, value in entries if isinstance(value, torch.Tensor) and value.isnan().any()]
        if lost:
            raise FloatingPointError(
                f"iteration {runner.iter + 1}: {len(lost)} entries of the model are NaN, such as {lost[0]!r}. The training "
                f"has diverged, though its loss is a number, and no checkpoint of it was written. {_REMEDY}"
            )

    def _look_at_gradients(self, runner) -> None:
        """Warn once if the norm that the optimizer wrapper has logged lets clipping multiply by about 0."""
        wrapper = getattr(runner, "optim_wrapper", None)
        limit = (getattr(wrapper, "clip_grad_kwargs", None) or {}).get("max_norm")
        logged = runner.message_hub.log_scalars.get("train/grad_norm")
        if self._warned or limit is None or logged is None:
            return
        norm = float(logged.current())
        lost = norm == 0 or not norm < LARGEST_RATIO * limit  # every comparison with NaN is false
        self._lost = self._lost + 1 if lost else 0
        # With mixed precision single overflows are a part of finding the scale of the loss.
        if self._lost >= (10 if hasattr(wrapper, "loss_scaler") else 1):
            self._warned = True
            runner.logger.warning(
                f"iteration {runner.iter + 1}: the norm of all gradients is {norm:.3g}, so that clipping to {limit} leaves "
                f"nothing of them, and nothing is learnt. Likely causes: images so small that norms see constant "
                f"channels (Meta-SDT trains from 112x112 on), silent spike layers, or a learning rate without a warm-up."
            )

    def _check(self, runner) -> None:
        values = {k: v for k, v in (self._last_outputs or {}).items() if isinstance(v, torch.Tensor) and v.numel() == 1}
        bad = [f"{name}={value.item()}" for name, value in values.items() if not torch.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"iteration {runner.iter + 1}: {', '.join(bad)}. The training has diverged; no checkpoint of it was "
                f"written. {_REMEDY}"
            )
