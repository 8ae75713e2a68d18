"""Firing rates during training, as an mmengine hook."""

import json
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from torch import Tensor

from ...activity import FiringRates, count_operations, silence
from ...checks import flag, positive_int
from ...files import replacing
from ...registry import HOOKS
from ...undisturbed import preserved_random_state, undisturbed
from ..runtime.dataset_images import from_dataset, image_size, spread
from .moments import MeasuringHook, dataset_of, log_scalars, size_of_images
from .plain_model import plain_model
from .tracker_pairs import is_tracker, tracker_pairs


@HOOKS.register_module()
class FiringRateHook(MeasuringHook):
    """Count spikes at validations: one INFO line, scalars, and a JSON file with every layer.

    A config without a validation, such as a tracker's, has them counted with checkpoints and at the end, on training data.

    The scalars are ``val/firing_rate`` (spikes divided by D, mean over all neuron layers), ``val/dead_channels`` (share
    of channels that never fired) and, with ``operations``, ``val/energy_mj``, the energy per image in millijoules (see
    ``sterf_plugins.activity``). Of a detector or segmentor backbone and neck run, with the raw weights where there is an
    ``EMAHook``; the line names spike layers that did not run. Only the first process counts; the training is not disturbed.

    Args:
        interval: count at every ``interval``-th validation, or checkpoint where there is no validation, and at the last one.
        num_samples: number of images, evenly spread over the data set.
        input_size: (height, width) to which they are resized; an int for squares. ``None`` for the size of the crops that
            a segmentor is trained on, or of the first validation image. A tracker's search regions keep their size.
        operations: count synaptic operations too.

    Raises:
        ValueError, TypeError: an argument is out of range, or the model has no spiking neuron.
    """

    priority = 55  # before LoggerHook reads the scalars

    def __init__(
        self,
        interval: int = 1,
        num_samples: int = 8,
        input_size: int | tuple[int, int] | None = None,
        operations: bool = True,
    ):
        self.interval = positive_int("interval", interval)
        self.num_samples = positive_int("num_samples", num_samples)
        self.input_size = size_of_images(input_size)
        self.operations = flag("operations", operations)

    def before_train(self, runner) -> None:
        """Refuse a model without neurons now and not after the first epoch."""
        FiringRates(plain_model(runner))
        super().before_train(runner)

    def before_val_epoch(self, runner) -> None:
        """Remove the scalars of the previous count, so that no log line repeats them."""
        for name in ("firing_rate", "dead_channels", "energy_mj"):
            runner.message_hub.log_scalars.pop(f"val/{name}", None)

    def measure(self, runner, step: int) -> None:
        """Count the spikes now, in the first process."""
        if not is_main_process():
            return
        model, dataset = plain_model(runner), dataset_of(runner)
        with preserved_random_state(), undisturbed(model) as start_afresh, torch.no_grad():
            images = self._images(model, dataset)
            with FiringRates(model) as rates:
                if self.operations:
                    operations = count_operations(model, *images)
                else:
                    for image in images:
                        start_afresh()
                        getattr(model, "extract_feat", model)(image)
        if not rates.layers:
            runner.logger.warning(f"spikes at {step}: none of the spike layers has run{rates.not_run}")
            return
        scalars = {"firing_rate": rates.rate, "dead_channels": rates.dead}
        record = dict(scalars, layers={name: layer.as_dict() for name, layer in rates.layers.items()})
        if self.operations:
            total = operations.total
            scalars["energy_mj"] = total.energy / operations.num_inputs / 1e9
            record |= dict(
                energy_mj=scalars["energy_mj"], macs=total.macs, acs=total.acs, num_inputs=operations.num_inputs,
                not_counted=operations.not_counted,
            )  # fmt: skip
        log_scalars(runner, scalars, step)
        path = Path(runner.log_dir) / "vis_data" / "firing_rate" / f"{step}.json"
        with replacing(path) as partial:
            partial.write_text(json.dumps(record))
        listing = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        runner.logger.info(f"spikes at {step}: {listing}{rates.not_run} -> {path}")
        line = silence(rates.layers)
        if line is not None:
            runner.logger.warning(f"spikes at {step}: {line}")

    def _images(self, model, dataset) -> list[Tensor]:
        if is_tracker(model):  # its `extract_feat` takes a search region
            return [pair["search"] for pair in tracker_pairs(model, dataset, self.num_samples)]
        indices = spread(self.num_samples, dataset)
        size = self.input_size or image_size(model.data_preprocessor, dataset)
        return list(from_dataset(dataset, model.data_preprocessor, indices, size))
