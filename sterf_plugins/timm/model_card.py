"""The card of a model for the Hugging Face hub: how large it is, how much it fires, and what it looks at."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from torch import Tensor, nn

from ..activity import FiringRates, count_operations, silence
from ..checks import as_path
from ..erf import ERFResult, compute_erf
from ..erf.figures.wording import measured
from ..files import replacing
from ..firing import neuron_layers
from ..undisturbed import undisturbed

PICTURE = "erf.png"
_NUMBERS = {"area_50": "share of the pixels with 50 % of the mass", "area_90": "with 90 %"}


def write_model_card(
    folder: str | os.PathLike,
    model: nn.Module,
    images: Tensor,
    *,
    repo_id: str,
    description: str = "",
    layers: str | Sequence[str] | None = None,
    license: str | None = None,
) -> Path:
    """Write ``README.md`` and ``erf.png`` into a folder, which is the card that the hub shows of a model.

    Beside them ``timm.models.save_for_hf`` writes the weights, and ``huggingface_hub.upload_folder`` uploads all of it.
    Every number is that of the weights as they are: where BatchNorms have their initial statistics, the card shows a
    silent network (``sterf_plugins.erf.calibrate``).

    Args:
        folder: folder of the model's files; it is made if it does not exist, and an older card in it is replaced.
        model: a model that timm made; it is left as it was.
        images: (N, C, H, W), preprocessed as for training, on the model's device; two or more give standard errors.
        repo_id: "user/name" on the hub, for the lines that load the model.
        description: a paragraph of Markdown: what the weights were trained on, and how well they do.
        layers: names of the layers whose fields are shown, as in ``compute_erf``; the model's feature maps by default.
        license: the licence of the weights; that of the model's configuration by default.

    Returns:
        Path of the card.

    Raises:
        TypeError: ``model`` has no configuration of timm's, since timm has not made it.
        ValueError: ``layers`` or ``images`` are refused by ``compute_erf``.
    """
    if not isinstance(getattr(model, "pretrained_cfg", None), dict) or not hasattr(model, "feature_info"):
        raise TypeError(
            f"`model` is a {type(model).__name__}, which timm has not made; give what timm.create_model(NAME) returns."
        )
    folder = as_path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.pretrained_cfg
    names = [point["module"] for point in model.feature_info] if layers is None else layers  # type: ignore[union-attr]
    fields = compute_erf(model, images, layers=names, calibrate=False)
    fields.plot(folder / PICTURE)
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license or config.get("license"),
        tags=["timm", "sterf_plugins", *(["spiking-neural-network"] if neuron_layers(model) else [])],
    )
    papers = config.get("paper_ids") or ()
    sections = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {repo_id.rpartition('/')[2]}\n",
        f"{description}\n" if description else "",
        _use(config["architecture"], repo_id, [papers] if isinstance(papers, str) else papers),
        _operations(model, images),
        _fields(fields),
    ]
    with replacing(folder / "README.md") as partial:
        partial.write_text("\n".join(filter(None, sections)), encoding="utf-8")
    return folder / "README.md"


def _use(architecture: str, repo_id: str, papers: Sequence[str]) -> str:
    numbers = [paper.removeprefix("arXiv:") for paper in papers]
    links = ", ".join(f"[arXiv:{number}](https://arxiv.org/abs/{number})" for number in numbers)
    return f"""`{architecture}` of sterf_plugins{f" ({links})" if links else ""}.

```python
import timm, sterf_plugins.timm

model = timm.create_model("hf-hub:{repo_id}", pretrained=True)
```
"""


def _operations(model: nn.Module, images: Tensor) -> str:
    """Parameters, operations and firing rates, as Markdown."""
    total = count_operations(model, images).total
    macs, acs, dense = (f"{n / len(images) / 1e9:.3g} G" for n in (total.macs, total.acs, total.dense))
    rows = [
        f"| parameters | {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M |",
        f"| multiply-accumulates of an image, on dense activations | {dense} |",
    ]
    after = ""
    if neuron_layers(model):
        with undisturbed(model), FiringRates(model) as rates:
            model(images)
        rows += [
            f"| synaptic operations (accumulations that spikes drive) of an image | {acs} |",
            f"| multiply-accumulates that are left | {macs} |",
            f"| firing rate (spikes of a neuron, over its D levels) | {rates.rate:.3f} |",
            f"| channels that never fire | {rates.dead:.1%} |",
        ]
        warning = silence(rates.layers)
        layers = [f"| `{name}` | {layer.rate:.3f} | {layer.dead:.1%} |" for name, layer in rates.layers.items()]
        table = "\n".join(["| layer | firing rate | channels that never fire |", "|---|---:|---:|", *layers])
        after = f"\n<details><summary>Firing rates of all spike layers</summary>\n\n{table}\n\n</details>\n"
        after = f"\n**Note**: {warning}\n{after}" if warning else after
    size = "×".join(map(str, images.shape[1:]))
    title = f"## What it costs\n\nMeasured on {len(images)} images of {size}.\n\n| | |\n|---|---:|\n"
    return title + "\n".join(rows) + "\n" + after


def _fields(fields: ERFResult) -> str:
    """The picture of the fields, their numbers, and what has to be said beside them, as Markdown."""
    rows = [
        f"| `{layer}` | " + " | ".join(measured(fields.numbers(layer)[name]) for name in _NUMBERS) + " |"
        for layer in fields.layers
    ]
    table = "\n".join([f"| layer | {' | '.join(_NUMBERS.values())} |", "|---|---:|---:|", *rows])
    notes = "".join(f"\n* {line}" for line in (*fields.notes, *fields.warnings))
    listed = ", ".join(fields.layers)
    return f"""## What it looks at

Effective receptive fields (mean absolute gradient of a layer's central output, arXiv:2510.21403), ± standard errors over
{fields.info["num_inputs"]} images.

![Effective receptive fields of {listed}]({PICTURE})

{table}
{notes}
"""
