"""How large a tracker's boxes are with the norms of its training and with those of a test: a table of ``docs/tracking.md``.

    python docs/tracker_norm.py CONFIG CHECKPOINT DATA [--cfg-options model.mixer=srb …]

For pairs of the training set in DATA the boxes are computed three times: with the statistics of the batch, as in a training;
with the running statistics, as in a test; and with these but for the norm of the last downsampling. Without
``model.joint_norm`` this norm normalises template, search region and padding each by itself in a training, and by the mean of
their statistics in a test.
"""

import argparse

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from mmengine.runner import Runner

import sterf_plugins
from sterf_plugins.checkpoints.reading import read_checkpoint
from sterf_plugins.tracking import decode

MODES = ("training", "test", "test, but for that norm")


def sides(model, batches):
    """Mode -> sides of the boxes, over the search region's."""
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    found = {}
    for mode in MODES[:2] if model.network.joint_norm else MODES:
        model.train(mode == "training")
        model.network.backbone.stages[-1].downsample.train(mode != "test")
        with torch.no_grad():
            boxes = torch.cat([decode(model(**batch)) for batch in batches])
        model.load_state_dict(weights)  # the running statistics, which the batches may have changed
        found[mode] = boxes[:, 2:].prod(1).sqrt().numpy()
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("checkpoint")
    p.add_argument("data")
    p.add_argument("--batches", type=int, default=15)
    p.add_argument("--seed", type=int, default=7, help="of the pairs")
    p.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = p.parse_args()
    sterf_plugins.setup()
    config = Config.fromfile(args.config)
    config.merge_from_dict(
        {
            **args.cfg_options,
            "train_dataloader.dataset.data_root": args.data,
            "train_dataloader.dataset.seed": args.seed,
        }
    )
    model = MODELS.build(config.model)
    model.load_state_dict(read_checkpoint(args.checkpoint)["state_dict"])
    loader = iter(Runner.build_dataloader(config.train_dataloader, seed=args.seed))
    batches = [model.data_preprocessor(next(loader)) for _ in range(args.batches)]
    true = torch.cat([batch["box"] for batch in batches])[:, 2:].prod(1).sqrt().numpy()
    print("| norms as in | side of the box over the true one, median | growth of the logarithm of one with that of the other |")
    print("|---|---|---|")
    for mode, found in sides(model, batches).items():
        slope = np.polyfit(np.log(true), np.log(found), 1)[0]
        print(f"| {mode} | {np.median(found / true):.2f} | {slope:.2f} |")


if __name__ == "__main__":
    main()
