"""How far back in time a classifier of events looks: its temporal fields on recordings, ``docs/images/events_lags.png``.

    python docs/train_events.py                      # writes work_dirs/events/last.pth
    python docs/events_in_time.py a.aedat4 b.aedat4  # any recordings that events.open_recording reads

The recordings are cut into windows of T steps, of which the middle is taken, in the size that fits into all of them. The
trained network is beside one of random weights, whose BatchNorms have the statistics of these windows, so that it fires.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.checkpoints.reading import read_checkpoint
from sterf_plugins.checks import positive_int
from sterf_plugins.cli.console import run_tool
from sterf_plugins.erf import calibrate, compute_erf
from sterf_plugins.erf.figures.curves import draw_lags
from sterf_plugins.erf.figures.sheet import write
from sterf_plugins.events import open_recording
from sterf_plugins.events.representations import REPRESENTATIONS, equal_times
from sterf_plugins.firing import FiringRates, silence

STRIDE = 32  # of the networks: sides are multiples of it


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recordings", type=Path, nargs="+")
    p.add_argument("--checkpoint", type=Path, default=Path("work_dirs/events/last.pth"), help="(default: %(default)s)")
    p.add_argument("--steps", type=int, default=16, help="T, steps of a window (default: %(default)s)")
    p.add_argument("--step", type=int, default=5000, help="microseconds of a step (default: %(default)s)")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "events_lags.png")
    return p.parse_args()


def windows(paths: list[Path], steps: int, step: int, kind: str = "histogram") -> torch.Tensor:
    """The representation (T, N, C, H, W) of all whole windows of the recordings.

    Raises:
        ValueError: a recording cannot be read, is too small, or they have fewer than two windows.
    """
    recordings = [open_recording(path) for path in paths]
    height, width = (min(side) // STRIDE * STRIDE for side in zip(*(r.size for r in recordings), strict=True))
    if not height or not width:
        raise ValueError(f"a recording is smaller than {STRIDE} pixels.")
    found = []
    for recording in recordings:
        top, left = (recording.size[0] - height) // 2, (recording.size[1] - width) // 2
        whole = list(recording.slices(time=steps * step))[:-1]  # the last slice ends with the recording
        for k, events in enumerate(whole):
            start = int(whole[0].t[0]) + k * steps * step
            times = equal_times(start, start + steps * step, steps)
            frames = REPRESENTATIONS[kind](events, recording.size, times)
            found.append(frames[:, :, top : top + height, left : left + width])
    if len(found) < 2:
        raise ValueError(f"the recordings have {len(found)} windows of {steps * step} µs; lower --steps or --step.")
    return torch.from_numpy(np.stack(found, 1))


def main() -> None:
    args = parse_args()
    saved = read_checkpoint(args.checkpoint)
    if "settings" not in saved:
        raise ValueError(f"--checkpoint {args.checkpoint} is none that docs/train_events.py has written.")
    options, weights = saved["settings"], saved["state_dict"]
    steps, step = positive_int("--steps", args.steps), positive_int("--step", args.step)
    x = windows(args.recordings, steps, step, options["kind"])
    results = {}
    for name in ("trained", "random weights"):
        torch.manual_seed(0)
        sizes = dict(in_chans=x.shape[2], num_classes=len(options["classes"]))
        model = timm.create_model(options["model"], **sizes, **options["model_kwargs"])
        if name == "trained":
            model.eval().load_state_dict(weights)
        else:
            calibrate(model, x)
        with FiringRates(model) as rates, torch.no_grad():
            model(x)
        result = results[name] = compute_erf(model, x, "stages.*", kinds="temporal", calibrate=False)
        firing = silence(rates.layers) or "no layer is silent"
        print(f"{name}: {x.shape[1]} windows, spikes in {100 * rates.rate:.1f} % of steps, {firing}")
        for layer in result.layers:
            numbers = result.numbers(layer)
            print(f"  {layer}: mean lag {numbers['mean_lag']} steps, share of lag 0 {numbers['lag_0']}")
        result.info["weights"] = args.checkpoint.name if name == "trained" else "random"
    write(draw_lags(results), args.out)


if __name__ == "__main__":
    run_tool(main, again="the same command")
