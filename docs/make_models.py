"""Write the table of docs/models.md: every model that this package registers with timm, with what was counted and measured.

    python docs/make_models.py      # some minutes; again after a model was added or changed

Operations and rates are those of one noise image, with random weights and BatchNorms that have the statistics of eight
noise images. The tests compare names and parameters with the registry.
"""

import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from timm.models import model_entrypoint

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.activity import FiringRates, count_operations
from sterf_plugins.erf.calibrate import calibrate, uncalibrated
from sterf_plugins.firing import neuron_layers

PAGE = Path(__file__).parent / "models.md"
START, END = "<!-- table -->", "<!-- end of table -->"
HEAD = "| name | parameters (M) | dense G MACs | G MACs | G ACs | spikes per neuron | CPU time, ms | input | T, D | paper |"


def names() -> list[str]:
    """All names that this package registers."""
    return [n for n in timm.list_models() if model_entrypoint(n).__module__.startswith("sterf_plugins.")]


def parameters(name: str) -> str:
    """Millions of parameters, with a classifier of 1000 classes."""
    with torch.device("meta"):
        return f"{sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6:.2f}"


def row(name: str) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    config = model.pretrained_cfg
    size = config["input_size"]
    if uncalibrated(model):
        calibrate(model, torch.randn(8, *size))
    image = torch.randn(1, *size)
    spiking = bool(neuron_layers(model))
    with FiringRates(model) if spiking else nullcontext() as rates:
        total = count_operations(model, image).total
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            start = time.process_time()
            model(image)
            seconds.append(time.process_time() - start)
    steps = f"T={model.T}" if getattr(model, "T", None) else f"D={model.levels}" if hasattr(model, "levels") else ""
    papers = config.get("paper_ids") or ()
    links = [f"[{p.removeprefix('arXiv:')}](https://arxiv.org/abs/{p.removeprefix('arXiv:')})" for p in
             ([papers] if isinstance(papers, str) else papers)]  # fmt: skip
    cells = [f"`{name}`", parameters(name), *(f"{n / 1e9:.2f}" for n in (total.dense, total.macs, total.acs))]
    cells += [f"{rates.rate:.2f}" if spiking else "", f"{statistics.median(seconds[1:]) * 1e3:.0f}"]
    return "| " + " | ".join([*cells, "×".join(map(str, size)), steps, ", ".join(links)]) + " |"


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in names():
        rows.append(row(name))
        print(rows[-1], flush=True)
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    ruler = "|---" + "|---:" * 6 + "|---" * 3 + "|"
    PAGE.write_text("\n".join([before + START, HEAD, ruler, *rows, END]) + after)


if __name__ == "__main__":
    main()
