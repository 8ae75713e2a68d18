"""Make of a timm model's weights the folder that the Hugging Face hub shows: weights, settings, and a model card.

    sterf card sdtv3_tiny_srb last.pth --images photos/ --out my-model --repo-id me/my-model

MODEL is a timm name, with options in parentheses: 'sdtv3_tiny(num_classes=10, mixer="srb")'. The card, README.md, says how many
parameters and synaptic operations the model has, how often each spike layer fires, and what its feature maps look at (erf.png),
with standard errors; all of it for the given images. `timm.create_model("local-dir:OUT", pretrained=True)` loads the folder, and
`hf upload USER/NAME OUT` uploads it.
"""

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from sterf_plugins.cli.begin import OptionParser, begin

begin()

from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from sterf_plugins.checkpoints.reading import DESCRIPTIONS
from sterf_plugins.cli.checkpoints import add_checkpoint_option
from sterf_plugins.cli.console import add_device_option, check_counts, check_device, run_tool
from sterf_plugins.cli.images import add_image_options, inputs_for, joined
from sterf_plugins.cli.loading import load_model
from sterf_plugins.cli.specs import is_timm
from sterf_plugins.files import check_new, replacing
from sterf_plugins.layers.described import metadata_of
from sterf_plugins.timm import write_model_card


def parse_args() -> argparse.Namespace:
    p = OptionParser(description=__doc__)
    p.add_argument("model", metavar="MODEL", help="a timm name, such as sdtv3_tiny_srb")
    p.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="the model's weights")
    add_checkpoint_option(p)
    p.add_argument("--pretrained", action="store_true", help="timm's own weights instead of CHECKPOINT")
    p.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder to write")
    p.add_argument("--repo-id", required=True, metavar="USER/NAME", help="where the folder will be on the hub")
    p.add_argument("--description", default="", metavar="TEXT", help="what the weights were trained on, in Markdown")
    p.add_argument("--license", metavar="NAME", help="of the weights (default: that of the model)")
    p.add_argument("--layers", nargs="+", metavar="LAYER", help="whose fields are shown (default: the feature maps)")
    add_image_options(p, "DIR|noise|photographs", num=8)
    add_device_option(p)
    p.add_argument("--seed", type=int, default=0, help="seed of the noise")
    p.add_argument("--overwrite", action="store_true", help="replace the files in FOLDER")
    return p.parse_args()


def describe(weights: Path, model: nn.Module) -> None:
    """Add to a safetensors file what PyTorch's own files have as metadata: the arguments that no shape tells."""
    modules = metadata_of(model.state_dict())
    told = {name: about["description"] for name, about in modules.items() if about.get("description")}
    with replacing(weights) as partial:
        save_file(load_file(weights), partial, dict(format="pt", **{DESCRIPTIONS: json.dumps(told)}))


def main() -> None:
    args = parse_args()
    if not is_timm(args.model):
        raise ValueError(f"model {args.model!r} is no timm name, and timm alone can load what the hub keeps.")
    if bool(args.checkpoint) == args.pretrained:
        raise ValueError("a card describes trained weights: give either CHECKPOINT or --pretrained.")
    check_counts(args, "num", "input_size")
    check_device(args.device)
    check_new(args.out, args.overwrite)
    loaded = load_model(args.model, args.checkpoint, args.pretrained)
    size = tuple(args.input_size) if args.input_size else loaded.size
    images = joined(inputs_for(args.images, loaded, size, args.num, args.seed)).to(args.device)
    model = loaded.model.to(args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=args.out.parent, prefix=".card-") as folder:
        save_for_hf(model, folder, safe_serialization=True)
        describe(Path(folder, "model.safetensors"), model)
        described = dict(description=args.description, layers=args.layers, license=args.license)
        write_model_card(folder, model, images, repo_id=args.repo_id, **described)
        args.out.mkdir(exist_ok=True)
        for path in sorted(Path(folder).iterdir()):
            os.replace(path, args.out / path.name)
            print(args.out / path.name)


if __name__ == "__main__":
    run_tool(main)
