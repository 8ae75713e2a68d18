"""Turn a checkpoint of the papers' releases into one of ours: plain tensors, our names, and what the file cannot tell.

    sterf convert V3_5.1M_1x4.pth sdtv3-t.pth --levels 4
    sterf convert det_srb_t.pth srb-t_coco.pth --levels 4 --layout raster

    sterf convert SDTrack_ep0100.pth.tar sdtrack.pth --variant 4x1

Reads classifiers (SDT-V3, the ST-ERF hub, Spikformer, SDT-V1, Meta-SDT, QKFormer, Max-Former), whole mmdet and mmseg models
of the release, and SDTrack with the classifiers from which it starts. Sizes and mixer are found in the keys; D and the token
layout are in no file, so they must be given. An entry that fits nowhere, or that is missing, is an error.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from sterf_plugins.cli.begin import OptionParser, begin

begin()

import torch
from torch import nn

import sterf_plugins
from sterf_plugins.backbones import SDTV3
from sterf_plugins.checkpoints import convert_state_dict, infer_architecture, read_checkpoint, state_dict_of
from sterf_plugins.checkpoints.reading import weights_beside
from sterf_plugins.checkpoints.sd_track import convert_tracker, is_published_tracker, tracker_architecture, variants_of
from sterf_plugins.checkpoints.sdt_v3 import has_our_names
from sterf_plugins.checkpoints.zoo import find_family
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import check_counts, run_tool
from sterf_plugins.files import check_new, replacing
from sterf_plugins.layers import IntegerSpike
from sterf_plugins.layers.described import with_metadata
from sterf_plugins.mixers import TokenMixer
from sterf_plugins.tracking.published import published_weights
from sterf_plugins.tracking.sd_track import VARIANTS, SDTrack


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("source", metavar="SRC", help="checkpoint of the release")
    p.add_argument("target", metavar="DST", help="file to write")
    p.add_argument(
        "--levels",
        type=int,
        metavar="D",
        help="integer spike levels of an SDT-V3: 4 in the released detectors, segmentors and V3_*_1x4 files, 8 in the "
        "ST-ERF hub's definition",
    )
    p.add_argument("--layout", choices=["raster", "channel"], help="of MLPixer and SRB; the releases have raster")
    p.add_argument("--variant", choices=list(VARIANTS), help="of an SDTrack; some files say it, and many do not")
    add_checkpoint_option(p)
    p.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    return p.parse_args()


def convert(args: argparse.Namespace, checkpoint: Mapping) -> tuple[dict, dict]:
    """Convert the checkpoint, as it was read; nothing is written.

    Returns:
        The converted state dict, and what is known about it: its kind, the model and the model's arguments.

    Raises:
        ValueError: entries do not fit, or an option is missing or does not apply.
    """
    if is_published_tracker(checkpoint):
        return convert_sd_track(args, checkpoint)
    state = state_dict_of(checkpoint)
    if has_our_names({key.removeprefix("network.").removeprefix("backbone."): value for key, value in state.items()}):
        raise ValueError(
            f"{args.source} has entries stages.…, which are the names of this package already: load it as it is. If it is of "
            f"another model, it cannot be converted."
        )
    if args.variant is not None:
        raise ValueError(f"--variant is of an SDTrack, and {args.source} is none; leave it out.")
    if any(key.startswith(("roi_head.", "decode_head.")) for key in state):
        sterf_plugins.setup()
        from sterf_plugins.checkpoints.detectors import convert_model, kind_of

        kind, converted = kind_of(state), convert_model(state)
        inner = {k.removeprefix("backbone."): v for k, v in converted.items() if k.startswith("backbone.")}
    else:
        converted = inner = convert_state_dict(state)
        kind = "classifier" if "head.weight" in converted else "backbone"
    family = find_family(inner)
    if family is not None:
        if args.levels is not None or args.layout is not None:
            raise ValueError(f"--levels and --layout are of SDT-V3; {args.source} is a {family.name} with LIF neurons.")
        return converted, dict(kind=kind, model=family.name, **family.arguments(inner))
    options = infer_architecture(inner)
    if args.levels is None:
        raise ValueError(
            f"{args.source} is an SDT-V3 with {options['mixer']} mixers, and how many integer levels its spikes have "
            f"is not in the file: give --levels 4 (released detectors, segmentors, V3_*_1x4) or 8 (the ST-ERF hub)."
        )
    check_counts(args, "levels")
    if options["mixer"] != "conv" and args.layout is None:
        raise ValueError(
            f"{args.source} has {options['mixer']} mixers, and their token layout is not in the file: give --layout "
            f"raster (all releases) or channel."
        )
    if options["mixer"] != "conv":
        options["layout"] = args.layout
    with torch.device("meta"):
        network = SDTV3(levels=args.levels, **options)
    options["arch"].pop("num_heads")  # not in the file; 8 in all released models
    converted = described(converted, network, "" if inner is converted else "backbone.")
    return converted, dict(kind=kind, model="SDT-V3", levels=args.levels, **options)


def described(entries: Mapping, network: nn.Module, prefix: str) -> dict:
    """The entries with what is known of the network's spikes and mixers, as in a state dict of it; loading compares it."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, IntegerSpike | TokenMixer)}
    metadata = {f"{prefix}{name}": dict(description=module.description()) for name, module in layers.items()}
    return with_metadata(entries, metadata)


def convert_sd_track(args: argparse.Namespace, checkpoint: Mapping) -> tuple[dict, dict]:
    """The same as ``convert`` for an SDTrack, or a classifier from which one starts."""
    if args.levels is not None:
        raise ValueError(
            f"--levels is of SDT-V3; {args.source} is an SDTrack, whose --variant says it: {', '.join(VARIANTS)}."
        )
    possible = variants_of(checkpoint)
    if args.variant is None and len(possible) > 1:
        raise ValueError(
            f"{args.source} is an SDTrack of variant {' or '.join(possible)}, whose entries are alike, and it does not say "
            f"which: give --variant {possible[0]} or {possible[1]}."
        )
    options = tracker_architecture(convert_tracker(checkpoint))
    if options["mixer"] != "conv" and args.layout is None:
        raise ValueError(
            f"{args.source} has {options['mixer']} mixers: give --layout raster (all releases) or channel."
        )
    if options["mixer"] != "conv":
        options["layout"] = args.layout
    options["variant"] = args.variant or possible[0]
    with torch.device("meta"):
        network = SDTrack(**options)
    entries, left_out = published_weights(network, checkpoint, args.source)
    options["arch"].pop("num_heads")  # not in the file; 8 in all published ones
    kind = "tracker" if any(key.startswith("head.") for key in entries) else "backbone"
    beside = [key for key in checkpoint if key not in ("net", "model", "state_dict")] if "net" in checkpoint else []
    converted = {f"network.{key}": value for key, value in entries.items()}
    converted["variant"] = torch.tensor(VARIANTS[network.variant])
    converted = described(converted, network, "network.")
    return converted, dict(kind=kind, model="SDTrack", **options, left_out=[*left_out, *map(str, beside)])


def main() -> None:
    args = parse_args()
    target = Path(args.target)
    check_new(target, args.overwrite)
    if not target.parent.is_dir():
        raise ValueError(f"the folder {target.parent} does not exist.")
    if target.suffix == ".safetensors":
        raise ValueError(
            f"{target} would be a checkpoint of PyTorch under a name of another format; call it {target.stem}.pth."
        )
    checkpoint = read_checkpoint(args.source)
    converted, facts = convert(args, checkpoint)
    if averaged := weights_beside(checkpoint):
        facts["left_out"] = [*facts.get("left_out", ()), *averaged]
    lost = [key for key, value in converted.items() if value.is_meta or not value.isfinite().all()]
    if lost:
        raise ValueError(
            f"{args.source} has entries with NaN or infinite numbers, or without data ({len(lost)}), such as {lost[0]!r}; give a "
            f"checkpoint of before the training diverged."
        )
    facts["source"] = Path(args.source).name
    with replacing(target) as partial, open(partial, "wb") as file:  # an archive's bytes depend on its file's name
        torch.save(dict(state_dict=converted, meta=dict(sterf_plugins=facts)), file)
    print(f"{target}: {len(converted)} tensors, {', '.join(f'{k} {v}' for k, v in facts.items())}")


if __name__ == "__main__":
    run_tool(main)
