"""Effective receptive fields during training, as an mmengine hook."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch.nn import functional as F

from ..checks import one_of, positive_int
from ..erf import ERFResult, compute_erf
from ..erf.plot import map_image
from ..erf.targets import match_layers
from ..erf.undisturbed import preserved_random_state
from ..registry import HOOKS


@HOOKS.register_module()
class ERFHook(Hook):
    """Compute the spatial ERF of some layers at validations, and log it.

    Each time: one INFO line; the share of input pixels that holds half of the mass as scalar ``val/erf/<layer>``,
    which reaches the log line, ``scalars.json``, TensorBoard and the other backends; one picture per layer; and
    ``<work_dir>/<timestamp>/vis_data/erf/<step>.npz`` with the maps. The weights of a training with and without the
    hook are bit-identical.

    Args:
        layers: module names or globs (``backbone.stages.*``); ``None`` for the backbone's outputs.
        interval: every interval-th validation.
        num_samples: images to average over.
        source: "val" for normalised validation images, "noise" for standard normal noise.
        input_size: (height, width) to which images are resized; an int for squares.
        at_start: also compute it before the first iteration.
        position: target position, see ``sterf_plugins.erf.compute_erf``.
        weights: "raw", or "ema" to look at the averaged weights of an ``EMAHook``.
        seed: of the noise.

    Raises:
        ValueError, TypeError: an argument is out of range, a pattern matches no module (before training starts), or
            the gradients vanish.
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        interval: int = 1,
        num_samples: int = 8,
        source: str = "val",
        input_size: int | tuple[int, int] = 224,
        at_start: bool = False,
        position="center",
        weights: str = "raw",
        seed: int = 0,
    ):
        one_of("source", source, ("val", "noise"))
        one_of("weights", weights, ("raw", "ema"))
        self.layers = layers
        self.interval = positive_int("interval", interval)
        self.num_samples = positive_int("num_samples", num_samples)
        self.source = source
        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        self.input_size = tuple(positive_int("input_size", n) for n in size)
        self.at_start = at_start
        self.position = position if isinstance(position, str) else tuple(position)
        self.seed = seed
        # EMAHook (50) swaps the averaged weights out again in after_val_epoch; LoggerHook (60) reads the scalars.
        self.priority = 45 if weights == "ema" else 55

    def before_train(self, runner) -> None:
        """Check the layer names now rather than after the first epoch; compute at the start if asked."""
        match_layers(_plain_model(runner), self.layers)
        if self.source == "val" and runner._val_dataloader is None:
            raise ValueError("ERFHook has source='val' but the config has no val_dataloader; use source='noise'.")
        if self.at_start and runner.iter == 0:
            self._run(runner, step=0)

    def before_val_epoch(self, runner) -> None:
        """Drop the last scalars, so that no log line repeats an old number."""
        for key in [k for k in runner.message_hub.log_scalars if k.startswith("val/erf/")]:
            runner.message_hub.log_scalars.pop(key)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Compute and log, if this validation is due."""
        loop = runner._train_loop
        if loop is None or isinstance(loop, dict):  # a validation outside training
            self._run(runner, step=0)
            return
        by_epoch = loop.__class__.__name__ == "EpochBasedTrainLoop"
        now, last = (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
        # From the loop's own counters, so that a resumed run keeps the rhythm.
        validation = -(-now // loop.val_interval)
        if validation % self.interval == 0 or now == last:
            self._run(runner, step=now)

    def _run(self, runner, step: int) -> None:
        if is_main_process():
            result = self.compute(runner)
            self._log(runner, result, step)
        barrier()

    def compute(self, runner) -> ERFResult:
        """The ERF of the runner's model now, without a trace in the training."""
        model = _plain_model(runner)
        with preserved_random_state():
            images = self._images(runner, model)
        return compute_erf(model, images, self.layers, position=self.position, batch_size=min(4, self.num_samples))

    def _images(self, runner, model) -> torch.Tensor:
        device = next(model.parameters()).device
        if self.source == "noise":
            channels = getattr(getattr(model, "backbone", model), "in_chans", 3)
            generator = torch.Generator().manual_seed(self.seed)
            return torch.randn(self.num_samples, channels, *self.input_size, generator=generator).to(device)
        dataset = runner.val_dataloader.dataset
        count = min(self.num_samples, len(dataset))
        images = []
        for i in range(count):
            batch = pseudo_collate([dataset[i * len(dataset) // count]])
            with torch.no_grad():
                image = model.data_preprocessor(batch, False)["inputs"]
            images.append(F.interpolate(image.float(), self.input_size, mode="bilinear", antialias=True))
        return torch.cat(images)

    def _log(self, runner, result: ERFResult, step: int) -> None:
        shares = {layer: result.area_ratio(layer, 0.5) for layer in result.layers}
        for layer, share in shares.items():
            runner.message_hub.update_scalar(f"val/erf/{layer}", share)
            name = f"erf-{layer}".replace("/", "-")  # a slash would be lost by the local backend
            runner.visualizer.add_image(name, map_image(result.spatial[layer]), step)
        result.info["step"] = step
        path = result.save(Path(runner.log_dir) / "vis_data" / "erf" / f"{step}.npz")
        listing = ", ".join(f"{layer} {share:.4f}" for layer, share in shares.items())
        runner.logger.info(f"ERF at {step} (share of pixels with half of the mass): {listing} -> {path}")


def _plain_model(runner) -> torch.nn.Module:
    model = runner.model
    if type(model).__name__.endswith("FullyShardedDataParallel"):
        raise ValueError(
            "ERFHook cannot run under FSDP: the parameters are sharded. Compute the ERF from a checkpoint."
        )
    return model.module if is_model_wrapper(model) else model
