"""SDTrack against golden networks (the authors' code with small widths, float64) and against the published counts."""

import numpy as np
import pytest
import torch
from golden_trackers import NETWORKS, arrays, inputs, tracker

from sterf_plugins.checkpoints.sd_track import convert_tracker
from sterf_plugins.erf import compute_erf
from sterf_plugins.tracking.box_losses import WEIGHTS, centre_losses, heat_maps
from sterf_plugins.tracking.centre_head import CentreMaps, decode
from sterf_plugins.tracking.sd_track import SDTrack


def close(a: torch.Tensor, b: np.ndarray, tolerance: float = 2e-5) -> None:
    b = torch.from_numpy(b).double()
    assert a.shape == b.shape and b.std() > 0
    assert (a - b).abs().max() <= tolerance * b.abs().max(), (a - b).abs().max() / b.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_release(name):
    net, golden = tracker(name)
    with torch.no_grad():
        template, search = inputs(net)
        merged = (template, search) if net.T == 1 else (template.flatten(0, 1), search.flatten(0, 1))
        tokens = net.tokens(*merged)
        maps = net(template, search)
    features = tokens if net.T == 1 else tokens.unflatten(0, (net.T, -1))
    close(features[..., ::4], golden["feat_every4"])
    close(maps.score, golden["score_map"])
    close(maps.offset, golden["offset_map"])
    close(maps.size, golden["size_map"])
    close(decode(maps), golden["box"])


COUNTS = [
    (dict(), 19_607_693),
    (dict(classifier=True, variant="4x1"), 19_968_693),
    (dict(mixer="mlpixer", sep_conv=True, norm_hidden=False, classifier=True), 20_213_173),
    (dict(mixer="mlpixer", ratio=6, sep_conv=True, norm_hidden=False, classifier=True), 22_987_925),
    (dict(mixer="srb", sep_conv=True, norm_hidden=False, classifier=True), 21_426_293),
    (dict(sep_conv=True), 22_280_525),
    (dict(arch="base", classifier=True), 107_260_781),
]


@pytest.mark.parametrize(("options", "count"), COUNTS)
def test_parameter_counts_of_the_table(options, count):
    with torch.device("meta"):
        net = SDTrack(**options)
    assert sum(p.numel() for p in net.parameters()) == count


def test_heat_maps_boxes_and_losses():
    golden = {k: torch.from_numpy(v) for k, v in arrays("losses").items()}
    boxes = golden["boxes_xywh"]
    close(heat_maps(boxes, 16), golden["heatmaps"].numpy(), 1e-6)
    maps = CentreMaps(*(golden[f"{k}_map"].double().requires_grad_() for k in ("score", "offset", "size")))
    close(decode(maps).detach(), golden["pred_boxes_cxcywh"].numpy(), 1e-6)
    losses = centre_losses(maps, boxes.double())
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(golden[name]), rel=1e-5)
    total = sum(WEIGHTS[name] * value for name, value in losses.items())
    assert float(total.detach()) == pytest.approx(float(golden["total"]), rel=1e-5)
    for name, gradient in zip(("score", "offset", "size"), torch.autograd.grad(total, maps), strict=True):
        close(gradient, golden[f"grad_{name}"].numpy(), 1e-5)


def test_gradients_of_a_training_step_are_those_of_the_release():
    net, _ = tracker("1x4_conv")
    golden = arrays("gradients")
    net.train()
    losses = centre_losses(net(*inputs(net)), torch.from_numpy(golden["boxes_xywh"]).double())
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(golden[name]), rel=1e-6)
    sum(WEIGHTS[name] * value for name, value in losses.items()).backward()
    norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
    assert float(norm) == pytest.approx(float(golden["norm"]), rel=1e-6)
    grads = {name: p.grad for name, p in net.named_parameters()}
    for key in (k.removeprefix("grad/") for k in golden if k.startswith("grad/")):
        value = torch.from_numpy(golden[f"grad/{key}"])
        if ".attn.q_conv." in key:
            ours = grads["backbone.stages.3.blocks.0.attn.qkv.conv.weight"][: len(value)]
        else:
            (name,) = convert_tracker(
                {key: value, "box_head.conv5_ctr.bias": value, "backbone.head.bias": value}
            ).keys() - {
                "head.branches.score.8.bias",
                "backbone.head.bias",
            }
            ours = grads[name]
        close(ours.reshape(value.shape), value.numpy(), 1e-6)


def test_receptive_fields_of_the_score_on_template_and_search_region():
    """Each region has its own map, in its own pixels; both are those of plain autograd."""
    net, _ = tracker("1x4_conv")
    leaves = [x.clone().requires_grad_() for x in inputs(net)]
    result = compute_erf(net, dict(zip(("template", "search"), inputs(net), strict=True)), "head.branches.score")
    net.head.branches["score"].register_forward_hook(lambda module, args, y: kept.append(y))
    kept: list[torch.Tensor] = []
    net(*leaves)
    for name, gradient in zip(
        ("template", "search"), torch.autograd.grad(kept[0][:, :, 8, 8].sum(), leaves), strict=True
    ):
        field = result.spatial[f"head.branches.score@{name}"]
        close(torch.from_numpy(field), gradient.abs().mean((0, 1)).numpy(), 1e-6)
        assert field.shape == gradient.shape[2:]
