"""Tell during a training which spike layers let nothing through."""

from contextlib import ExitStack

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ...checks import positive_int
from ...firing import FiringRates, neuron_layers, silence
from ...registry import HOOKS


@HOOKS.register_module()
class SilenceHook(Hook):
    """Look at the spikes of three training iterations, and warn of layers that are silent or saturated.

    A branch behind a silent layer is a constant, and the loss does not tell. The spikes of the first iteration of this run,
    of a later and of the training's last one are counted, in the first process: nothing is computed in addition, and the
    weights are the same bits with and without the hook. With ``--compile`` these iterations run uncompiled. Models without
    spike layers are left alone.

    Args:
        after: the later iteration, counted from the first one of this run.

    Raises:
        ValueError, TypeError: ``after`` is out of range.
    """

    priority = "VERY_LOW"

    def __init__(self, after: int = 200):
        self.after = positive_int("after", after)
        self._start = 0
        self._rates: FiringRates | None = None
        self._watching = ExitStack()

    def before_train(self, runner) -> None:
        """Remember where this run starts."""
        self._start = runner.iter

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Start to count, if this iteration is one of the three."""
        now = runner.iter + 1
        model = getattr(runner.model, "module", runner.model)
        if (
            now in (self._start + 1, self._start + self.after, runner.max_iters)
            and is_main_process()
            and neuron_layers(model)
        ):
            self._rates = self._watching.enter_context(FiringRates(model))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Stop counting, and say what was seen."""
        if self._rates is None:
            return
        self._watching.close()
        rates, self._rates = self._rates, None
        line = silence(rates.layers)
        if line is not None:
            runner.logger.warning(f"iteration {runner.iter + 1}: {line}")
        elif rates.layers:
            found = [layer.rate for layer in rates.layers.values()]
            runner.logger.info(
                f"iteration {runner.iter + 1}: all {len(found)} spike layers fire, at rates from {min(found):.3f} to "
                f"{max(found):.3f}{rates.not_run}"
            )
