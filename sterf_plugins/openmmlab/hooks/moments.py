"""When hooks measure the model during a training, and on which data."""

from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop

from ...checks import size_pair
from .plain_model import training_step


class MeasuringHook(Hook):
    """Measures at validations, or where a config has none, as those of trackers: with checkpoints, and at the end."""

    interval = 1  # of validations or checkpoints
    _training = False

    def measure(self, runner: Any, step: int) -> None:
        """Measure the model now and log it, after so many epochs or iterations."""
        raise NotImplementedError

    def before_train(self, runner: Any) -> None:
        """Validations from now on are part of a training."""
        self._training = True

    def after_train(self, runner: Any) -> None:
        """Validations from now on are not part of a training."""
        self._training = False

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Measure if ``interval`` says so, or the training ends, or the validation is not part of one."""
        if not self._training:
            self.measure(runner, 0)
            return
        loop, now = runner.train_loop, training_step(runner)
        last = runner.max_epochs if isinstance(loop, EpochBasedTrainLoop) else runner.max_iters
        # Counted from the loop's own counters, so that a resumed run measures at the same steps.
        validation = -(-now // loop.val_interval)
        if validation % self.interval == 0 or now == last:
            self.measure(runner, now)

    def after_train_epoch(self, runner: Any) -> None:
        """Measure at the end of the last epoch, and of those with a checkpoint, if there is no validation."""
        self._with_checkpoint(runner, by_epoch=True)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """The same in a training by iterations."""
        self._with_checkpoint(runner, by_epoch=False)

    def _with_checkpoint(self, runner: Any, by_epoch: bool) -> None:
        if runner.val_loop is not None or by_epoch != isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        saving = next((h for h in runner.hooks if isinstance(h, CheckpointHook) and h.by_epoch == by_epoch), None)
        done, end = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
        every = 0 if saving is None else max(saving.interval, 0) * self.interval
        if done + 1 == end or (every and (done + 1) % every == 0):
            self.measure(runner, done + 1)


def size_of_images(input_size: int | tuple[int, int] | None) -> tuple[int, ...]:
    """(height, width) of an argument ``input_size``; empty for ``None``, the images' own size.

    Raises:
        ValueError, TypeError: it is no size.
    """
    return () if input_size is None else size_pair("input_size", input_size)


def dataset_of(runner: Any) -> Any:
    """The validation's data set, or the training's where a config has no validation."""
    return (runner.train_dataloader if runner.val_loop is None else runner.val_dataloader).dataset


def log_scalars(runner: Any, scalars: dict[str, float], step: int) -> None:
    """Log scalars of a validation; without one no log line takes them, and they go to the backends at once."""
    for name, value in scalars.items():
        runner.message_hub.update_scalar(f"val/{name}", value)
    if runner.val_loop is None:
        runner.visualizer.add_scalars({f"val/{name}": value for name, value in scalars.items()}, step=step)
