"""Effective receptive fields during training, as an mmengine hook."""

from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from torch import nn
from tqdm import tqdm

from ...checks import entries, flag, image_channels, one_of, positive_int, whole_number
from ...erf import ERFResult, compute_erf
from ...erf.figures.plot import draw
from ...erf.figures.sheet import pixels
from ...erf.figures.wording import named
from ...erf.outputs.selection import CHOICES, check_calls, check_channels, check_choices, check_position
from ...erf.outputs.targets import match_layers
from ...erf.passes.fields import KINDS, REDUCTIONS
from ...erf.passes.preparation import find_targets
from ...erf.protocols import choose
from ...erf.report.evolution import write_evolution
from ...registry import HOOKS
from ...stems import CovariantRFConv2d
from ...tracking.fields import LAYERS, field_options
from ...undisturbed import preserved_random_state
from ..runtime.dataset_images import from_dataset, image_size, spread
from ..runtime.tensor_forward import forward_for
from .moments import MeasuringHook, dataset_of, log_scalars, size_of_images
from .plain_model import plain_model
from .tracker_pairs import is_tracker, tracker_pairs


@HOOKS.register_module()
class ERFHook(MeasuringHook):
    """Compute the effective receptive field (ERF) of some layers at validations, and log it.

    A config without a validation, such as a tracker's, has it computed with checkpoints and at the end, on training data. A
    tracker's layers (``network``'s, see ``tracking.fields``) have a field on the template and one on the search region.

    Each time it writes one INFO line, one picture of all layers, and the whole result to
    ``<work_dir>/<timestamp>/vis_data/erf/<step>.npz``. The share of input pixels that holds half of the ERF's mass is
    the scalar ``val/erf/<layer>``, and the mean lag in time steps is ``val/erf_lag/<layer>``; they reach the log line,
    ``scalars.json``, TensorBoard and the other backends. At the end of the training, all maps are joined to a picture
    and an animation beside these files. The weights of a training with and without the hook are bit-identical.

    Under DDP the images are divided among the processes, and all processes have the same result.

    Args:
        layers: module names or globs (``backbone.stages.*``); ``None`` for the backbone's outputs.
        interval: compute at every ``interval``-th validation, or checkpoint where there is no validation, and at the last one.
        num_samples: images to average over.
        source: "val" for normalised validation images, "noise" for standard normal noise.
        input_size: (height, width) to which images are resized; an int for squares. ``None`` for the size of the crops that
            a segmentor is trained on, else of the first validation image behind its pipeline.
        at_start: also compute it before the first iteration.
        position: target position, see ``sterf_plugins.erf.compute_erf``.
        weights: "raw", or "ema" to look at the averaged weights of an ``EMAHook``.
        seed: seed of the noise and of ``compute_erf``.
        kinds: "spatial", "temporal", "spatiotemporal" or several of them; ``None`` for all if ``time_steps`` is given,
            else the first.
        time_steps: repeat the images for so many time steps, and give the model (T, B, C, H, W).
        batch_size: images per pass.
        **options: further ones of ``compute_erf``: protocol, reduce, channels, calls, time, target, aggregate, grid, layout,
            calibrate (by default, BatchNorms that have their initial statistics get those of the images for the computation).

    Raises:
        ValueError, TypeError: an argument is out of range, a pattern matches no module (before training starts), or
            the gradients vanish, or there are no averaged weights.
    """

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        interval: int = 1,
        num_samples: int = 8,
        source: str = "val",
        input_size: int | tuple[int, int] | None = None,
        at_start: bool = False,
        position="center",
        weights: str = "raw",
        seed: int = 0,
        kinds: str | Sequence[str] | None = None,
        time_steps: int | None = None,
        batch_size: int = 4,
        **options,
    ):
        one_of("source", source, ("val", "noise"))
        one_of("weights", weights, ("raw", "ema"))
        allowed = (
            "reduce", "channels", "calls", "time", "target", "aggregate", "grid", "layout", "calibrate", "protocol",
        )  # fmt: skip
        for name in options:
            one_of("argument of ERFHook", name, (*allowed, *list(signature(ERFHook).parameters)[:-1]))
        one_of("reduce", options.get("reduce"), (None, *REDUCTIONS))
        check_choices(**{name: value for name, value in options.items() if name in CHOICES})
        check_position(position)
        if options.get("channels") is not None:
            check_channels(options["channels"])
        check_calls(options.get("calls", "all"))
        for kind in () if kinds is None else (kinds,) if isinstance(kinds, str) else entries("kinds", kinds):
            one_of("kinds", kind, KINDS)
        self.layers = layers
        self.interval = positive_int("interval", interval)
        self.num_samples = positive_int("num_samples", num_samples)
        self.source = source
        self.input_size = size_of_images(input_size)
        self.at_start, self.averaged = flag("at_start", at_start), weights == "ema"
        self.seed = whole_number("seed", seed)
        self._resumed = False
        self.options = dict(
            options,
            position=position if isinstance(position, str) else tuple(position),
            kinds=kinds,
            time_steps=None if time_steps is None else positive_int("time_steps", time_steps),
            batch_size=positive_int("batch_size", batch_size),
            seed=seed,
        )
        fixed = {name: options[name] for name in ("time", "aggregate") if name in options}
        choose(
            options.get("protocol"), reduce=options.get("reduce"), channels=options.get("channels"), kinds=kinds,
            position=self.options["position"], **fixed,
        )  # fmt: skip
        # EMAHook (50) swaps the averaged weights out again in after_val_epoch; LoggerHook (60) reads the scalars.
        self.priority = 45 if self.averaged else 55

    def before_train(self, runner) -> None:
        """Check what is said of layers now rather than after the first epoch; with ``at_start``, compute the first ERF."""
        if self.averaged and (
            runner.val_loop is None or not any("EMA" in type(hook).__name__ for hook in runner.hooks)
        ):
            raise ValueError(
                "ERFHook has weights='ema', but averaged weights are in a model at validations of a config with an EMAHook; add "
                "custom_hooks=[dict(type='EMAHook')] and a validation, or leave weights out."
            )
        model: Any = plain_model(runner)
        if is_tracker(model):
            self._check_layers(model.network, self.layers or LAYERS)
            if self.source == "noise" or self.options["time_steps"]:
                raise ValueError("ERFHook takes pairs of the data set for a tracker; leave out source and time_steps.")
        else:
            self._check_layers(model, self.layers)
            if self.source == "noise":
                _image_channels(model)
        super().before_train(runner)
        self._resumed = runner.iter > 0
        if self.at_start and not self._resumed:
            self.measure(runner, step=0)

    def _check_layers(self, model: nn.Module, layers: str | Sequence[str] | None) -> None:
        """Raise ``ValueError`` or ``TypeError`` if ``compute_erf`` would not find the layers, or a layout or grid of theirs."""
        names = match_layers(model, layers, self.options.get("target"))
        find_targets(model, names, self.options.get("grid"), self.options.get("layout"))

    def before_val_epoch(self, runner) -> None:
        """Remove the scalars of the previous computation, so that no log line repeats them."""
        for key in [k for k in runner.message_hub.log_scalars if k.startswith(("val/erf/", "val/erf_lag/"))]:
            runner.message_hub.log_scalars.pop(key)

    def after_train(self, runner) -> None:
        """Put all maps of the training, resumed parts included, side by side and one after the other."""
        super().after_train(runner)
        if not is_main_process():
            return
        files = self._files(Path(runner.log_dir))
        if self._resumed and files:  # the parts before; a new training is not mixed with older ones in the same folder
            start = min(files)
            for folder in sorted(Path(runner.work_dir).glob("*")):
                files = {step: p for step, p in self._files(folder).items() if step < start} | files
        if len(files) > 1:
            results = {step: ERFResult.load(files[step]) for step in sorted(files)}
            folder = Path(runner.log_dir) / "vis_data" / "erf"
            runner.visualizer.add_image("erf-evolution", write_evolution(results, folder), max(files))
            runner.logger.info(f"ERF over the training: {folder}/evolution.png and evolution.gif")

    @staticmethod
    def _files(logs: Path) -> dict[int, Path]:
        """Step -> file of its result, in the folder of one run's logs."""
        return {int(p.stem): p for p in logs.glob("vis_data/erf/[0-9]*.npz")}

    def measure(self, runner, step: int) -> None:
        """Compute the ERF now and log it; under DDP, all processes must call this."""
        result = self.compute(runner)
        self._log(runner, result, step)

    def compute(self, runner) -> ERFResult:
        """The ERF of the runner's model now; the training is not disturbed. Under DDP, all processes must call this."""
        model = plain_model(runner)
        with preserved_random_state():
            gather = all_gather_object if get_world_size() > 1 else None
            inputs: Any = None
            if is_tracker(model):
                model, inputs, layers, more = self._of_tracker(runner, model)
            else:
                inputs, layers = self._images(runner, model), self.layers
                more = dict(forward=forward_for(model, layers))
            hidden = None if is_main_process() else True  # None: unless on a terminal
            with tqdm(total=self.num_samples, desc="ERF", delay=5, leave=False, disable=hidden) as bar:
                return compute_erf(
                    model, inputs, layers, gather=gather, progress=lambda done, _: bar.update(done - bar.n),
                    **self.options, **more,
                )  # fmt: skip

    def _of_tracker(self, runner, model) -> tuple[nn.Module, Iterator[dict], Any, dict[str, Any]]:
        """The network of a tracker, this process's pairs, layers, and what ``compute_erf`` must know of them."""
        dataset, network = dataset_of(runner), model.network
        inputs = iter(tracker_pairs(model, dataset, self.num_samples)[get_rank() :: get_world_size()])
        return network, inputs, self.layers or LAYERS, field_options(network, *dataset.sizes)

    def _images(self, runner, model) -> Iterator[torch.Tensor]:
        """This process's images (1, C, H, W), read lazily, so that an unreadable file is an error of all processes."""
        device = next(model.parameters()).device
        dataset = dataset_of(runner)
        size = self.input_size or image_size(model.data_preprocessor, dataset)
        rank, world = get_rank(), get_world_size()
        if self.source == "noise":
            channels = _image_channels(model)
            generator = torch.Generator().manual_seed(self.seed)
            images = torch.randn(self.num_samples, channels, *size, generator=generator)
            yield from images[rank::world].to(device).split(1) if len(images) > rank else ()
        else:
            indices = spread(self.num_samples, dataset)[rank::world]
            yield from from_dataset(dataset, model.data_preprocessor, indices, size)

    def _log(self, runner, result: ERFResult, step: int) -> None:
        """Log scalars in every process, so that all have the same; write files and pictures in the first one."""
        scalars, parts = {}, []
        for layer in result.layers:
            name = named(result, layer)
            if layer in result.spatial:
                share = result.area_ratio(layer, 0.5)
                scalars[f"erf/{layer}"] = share
                parts.append(f"{name} {share:.4f}")
            if layer in result.temporal:
                lag = result.numbers(layer)["mean_lag"].value
                scalars[f"erf_lag/{layer}"] = lag
                parts.append(f"{name} mean lag {lag:.3f}")
        log_scalars(runner, scalars, step)
        if not is_main_process():
            return
        result.info |= dict(step=step, images=self.source)
        if result.spatial:
            runner.visualizer.add_image("erf", pixels(draw(result), 100), step)
        path = result.save(Path(runner.log_dir) / "vis_data" / "erf" / f"{step}.npz")
        listing = ", ".join(parts)
        runner.logger.info(f"ERF at {step} (share of pixels with half of the mass): {listing} -> {path}")
        alike: dict[str, list[str]] = {}  # warning -> the layers that have it
        for layer, _, text in (line.partition(": ") for line in result.warnings):
            alike.setdefault(text, []).append(layer)
        for text, layers in alike.items():
            runner.logger.warning(f"ERF at {step}: {', '.join(layers)}: {text}")


def _image_channels(model: nn.Module) -> int:
    """Number of image channels of a model: those of the first convolution of its backbone.

    Raises:
        ValueError: there is no convolution.
    """
    convolutions = (nn.Conv2d, nn.Conv3d, CovariantRFConv2d)
    channels = image_channels(getattr(model, "backbone", model), convolutions)
    if channels is None:
        raise ValueError("ERFHook has source='noise', but the model has no convolution that tells its image channels.")
    return channels
