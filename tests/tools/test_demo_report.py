"""The demo's report, from files as the demo's trainings leave them."""

import json
import re
import runpy
import shutil
from pathlib import Path

import matplotlib.text
import pytest
import torch
from torch import nn

from sterf_plugins.erf import compute_erf

TOOL = Path(__file__).resolve().parents[2] / "tools" / "demo_report.py"


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL), run_name="tool")


@pytest.fixture
def out(tmp_path):
    """Fields of two mixers, before and after a training."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
    for name in ("fields_conv", "fields_srb"):
        for step in (0, 1, 2):
            compute_erf(model, torch.randn(2, 1, 16, 16), list("0123")).save(
                tmp_path / name / "20260101_000000" / "vis_data" / "erf" / f"{step}.npz"
            )
    return tmp_path


@pytest.mark.slow
def test_rows_are_random_and_trained_weights(tool, out):
    fields = tool["receptive_fields"](out)
    assert list(fields) == ["conv (random)", "conv (trained)", "SRB (random)", "SRB (trained)"]
    tool["mixer_picture"](fields, out / "erf_mixers.png")
    assert (out / "erf_mixers.png").is_file() and (out / "erf_mixers.pdf").is_file()
    text = tool["field_picture"](fields)
    assert "SRB (trained): 0, stride 1: 0." in text
    assert text.count("data:image/webp") == 2 and '<source media="(max-width: 860px)"' in text  # one for telephones
    text = "\n".join(t.get_text() for t in tool["draw_maps"](fields).findobj(matplotlib.text.Text)).replace("\n", " ")
    assert "conv (random), SRB (random): random weights" in text
    assert f"conv (trained), SRB (trained): trained weights ({tool['TRAINED']})" in text


def test_charts_have_an_alternative_text_and_differ_without_colours(tool):
    svg = tool["chart"]({"loss": ([1, 2], [3, 4]), "loss_cls": ([1, 2], [2, 1])}, "loss")
    assert svg.startswith('<svg role="img" aria-label="loss by iteration: loss, loss_cls"')
    assert "stroke-dasharray" in svg


class Detector(nn.Module):
    """A backbone whose two outputs are those of its stages 1 and 3."""

    class Backbone(nn.Module):
        out_indices = (1, 3)

        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)])

        def forward(self, x):
            y = self.stages[0](x).tanh()
            return y, self.stages[1](y).tanh()

    def __init__(self):
        super().__init__()
        self.backbone = self.Backbone()

    def forward(self, x):
        return self.backbone(x)


@pytest.fixture
def demo(shapes, tmp_path):
    """The folder of a demo whose detector finds everything, and calls every twin the second one."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    truth = COCO(str(shapes / "annotations" / "instances_val2017.json"))
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    second = next(k for k, name in names.items() if name == "twin_b")
    results = []
    for item in truth.dataset["annotations"]:
        mask = coco_mask.encode(truth.annToMask(item))
        kind = second if names[item["category_id"]].startswith("twin") else item["category_id"]
        results.append(
            dict(image_id=item["image_id"], category_id=kind, score=0.9, bbox=item["bbox"])
            | dict(segmentation=mask | dict(counts=mask["counts"].decode()))
        )
    for name in ("mask-rcnn_srb", "fpn_srb"):
        logs = tmp_path / name / "20260101_000000" / "vis_data"
        (logs / "erf").mkdir(parents=True)
        (tmp_path / name / "results").mkdir()
        (tmp_path / name / "finished.json").write_text('{"seconds": 90}')
        result = compute_erf(Detector(), torch.randn(2, 3, 32, 32))
        result.save(logs / "erf" / "2.npz")
        losses = ["loss", "loss_cls", "loss_bbox", "loss_mask"]
        scores = ["coco/bbox_mAP_50", "coco/segm_mAP_50", "mIoU", "erf/backbone[0]", "erf/backbone[1]"]
        rows = [dict.fromkeys(losses, 1.0) | dict(step=10), dict.fromkeys(losses, 0.5) | dict(step=20)]
        rows += [dict.fromkeys(scores, 0.5) | dict(step=epoch) for epoch in (1, 2)]
        (logs / "scalars.json").write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(shapes / "ade" / "annotations" / "validation", tmp_path / "fpn_srb" / "results" / "maps")
    for kind in ("bbox", "segm"):
        (tmp_path / "mask-rcnn_srb" / "results" / f"coco.{kind}.json").write_text(json.dumps(results))
    for mixer in ("conv", "srb"):
        for step in (0, 2):
            result.save(tmp_path / f"fields_{mixer}" / "20260101_000000" / "vis_data" / "erf" / f"{step}.npz")
    return tmp_path


@pytest.mark.slow
def test_the_page_shows_all_classes_chance_and_stages(tool, demo, shapes):
    tool["mixer_picture"](tool["receptive_fields"](demo), demo / "erf_mixers.png")
    page = tool["build"](demo, shapes)
    (demo / "report.html").write_text(page)
    tables = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", page)]
    rows = {" ".join(row[:2]) if row[0] in ("mean,", "all") else row[0]: row for row in tables}
    for name in ("disc", "square", "triangle"):
        assert rows[name][2:] == ["1.000"] * 3  # box and mask AP50, IoU
    assert rows["twin_a"][1:4] == ["1", "0.000", "0.000"] and rows["twin_b"][1:3] == ["0", "–"]  # there is one twin
    assert rows["background"] == ["background", "–", "–", "–", "1.000"]
    assert rows["mean, plain"][-3:] == ["1.000"] * 3 and rows["mean, all"][-3:] == ["0.750", "0.750", "1.000"]
    assert page.count("all classes 0.750") == 2
    assert rows["all distances"][2:] == ["1", "1", "0.00", "0.00", "to", "0.79", "0.50"]
    assert "backbone stage 1, stride 4" in page and "backbone stage 3, stride 8" in page and "backbone[" not in page
    assert page.count('class="key"') == 2


def test_axes_have_whole_epochs(tool):
    svg = tool["chart"]({"AP": ([1, 2, 3], [0.1, 0.2, 0.3])}, "AP50", "epoch")
    across = svg[svg.index('id="matplotlib.axis_1"') : svg.index('id="matplotlib.axis_2"')]
    assert re.findall(r"<!-- ([\d.]+) -->", across) == ["1", "2", "3"]


def test_a_folder_without_trainings_is_told_in_one_line(forked, tmp_path):
    done = forked(TOOL, tmp_path / "none")
    assert done.returncode == 2 and done.stderr.startswith(f"demo_report.py: error: {tmp_path}/none has no trainings")
    assert not list(tmp_path.iterdir())
