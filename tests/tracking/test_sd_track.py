"""SDTrack against golden networks (the authors' code with small widths, float64) and against the published counts."""

import numpy as np
import pytest
import torch
from golden_trackers import NETWORKS, arrays, inputs, tracker

from sterf_plugins.activity import FiringRates
from sterf_plugins.checkpoints.sd_track import convert_tracker
from sterf_plugins.erf import compute_erf
from sterf_plugins.erf.calibrate import tracking_norms
from sterf_plugins.tracking.box_losses import WEIGHTS, centre_losses, heat_maps
from sterf_plugins.tracking.centre_head import CentreMaps, decode
from sterf_plugins.tracking.sd_track import SDTrack


def close(a: torch.Tensor, b: np.ndarray, tolerance: float = 2e-5) -> None:
    b = torch.from_numpy(b).double()
    assert a.shape == b.shape and b.std() > 0
    assert (a - b).abs().max() <= tolerance * b.abs().max(), (a - b).abs().max() / b.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sweep
def test_outputs_are_those_of_the_release(name):
    net, golden = tracker(name)
    kept: list[torch.Tensor] = []
    tokens = net.tokens
    net.tokens = lambda *regions: kept.append(tokens(*regions)) or kept[-1]
    with torch.no_grad():
        maps = net(*inputs(net))
    features = kept[0] if net.T == 1 else kept[0].unflatten(0, (net.T, -1))
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
    unread = [p.numel() for name, p in net.named_parameters() if name.startswith("backbone.head.")]
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count - sum(unread)  # DDP would wait for them
    assert bool(unread) == bool(options.get("classifier"))


def test_other_sides_of_the_regions():
    """9 and 16 tokens make a square map without any of zeros; one pair that leaves a single token of zeros has no statistics."""
    torch.manual_seed(0)
    net = SDTrack(dict(embed_dims=(8, 8, 16, 16), num_heads=2, depths=(1, 1, 1, 1, 1)), head_width=16)
    regions = [(255 * torch.rand(1, 3, side, side)).requires_grad_() for side in (48, 64)]
    assert net.tokens(*regions).shape == (1, 16, 9 + 16)
    maps = net(*regions)
    assert maps.score.shape == (1, 1, 4, 4)
    assert all(grad.any() for grad in torch.autograd.grad(sum(m.square().sum() for m in maps), regions))
    pair = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 128, 128)
    with pytest.raises(
        ValueError, match=r"sides of 64 and 128 pixels leave .* a batch_size of at least 2, or other sides"
    ):
        net(*pair)
    assert net.eval()(*pair).score.shape == (1, 1, 8, 8)
    for empty in ([x[:0] for x in pair], [pair[0][..., :0, :0], pair[1]]):
        with pytest.raises(ValueError, match=r"`template` has shape .*; give at least one pair of images with pixels"):
            net(*empty)
    for options, message in (
        (dict(head_width=0), "`head_width` is 0; it must be an int >= 8"),
        (dict(head_width=7), "`head_width` is 7; it must be an int >= 8"),
        (dict(classifier="no"), "`classifier` is 'no'"),
        (dict(arch=None), "`arch` is None; allowed: 'tiny', 'base'. Or give dict"),
        (
            dict(arch=dict(dims=(8, 8))),
            "^`arch` has 'dims'; as a dict it has exactly `embed_dims` .* and `num_heads`, and `depths`",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            SDTrack(**options)


def test_boxes_that_are_no_targets():
    maps = CentreMaps(torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4))
    for boxes in (torch.rand(2, 4), torch.rand(4), torch.full((1, 4), float("nan"))):
        with pytest.raises(
            ValueError, match=r"`boxes` has shape .*; it must be finite numbers x, y, w, h of 1 search regions"
        ):
            centre_losses(maps, boxes)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_receptive_fields_of_the_score_on_template_and_search_region():
    """Each region has its own map, in its own pixels; both are those of plain autograd."""
    net, _ = tracker("1x4_conv")
    regions = pairs(net, 1)
    leaves = [x.clone().requires_grad_() for x in regions]
    result = compute_erf(net, dict(zip(("template", "search"), regions, strict=True)), "head.branches.score")
    net.head.branches["score"].register_forward_hook(lambda module, args, y: kept.append(y))
    kept: list[torch.Tensor] = []
    net(*leaves)
    for name, gradient in zip(
        ("template", "search"), torch.autograd.grad(kept[0][:, :, 4, 4].sum(), leaves), strict=True
    ):
        field = result.spatial[f"head.branches.score@{name}"]
        close(torch.from_numpy(field), gradient.abs().mean((0, 1)).numpy(), 1e-6)
        assert field.shape == gradient.shape[2:]


LIVE = ("1x4_srb_channel", "2x2_conv", "4x1_srb_raster")


def pairs(net: SDTrack, number: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Several pairs, no two alike, of parts of the golden inputs: 64 and 128 pixels."""

    def several(x: torch.Tensor) -> torch.Tensor:
        margin = x.shape[-1] // 4
        part = x.select(-4, 0)[..., margin:-margin, margin:-margin]
        return torch.stack([(part * (1 - 0.2 * i)).roll((7 * i, -5 * i), (-2, -1)) for i in range(number)], -4)

    template, search = inputs(net)
    return several(template), several(search)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
def test_samples_do_not_see_each_other_nor_earlier_calls(name):
    net, _ = tracker(name)
    template, search = pairs(net)
    with torch.no_grad():
        whole = net(template, search)
        with FiringRates(net) as rates:
            alone = [net(template.narrow(-4, i, 1), search.narrow(-4, i, 1)) for i in (1, 0)]
        again = net(template, search)
    assert sum(layer.rate > 0 for layer in rates.layers.values()) > 0.8 * len(rates.layers)
    for together, single, repeated in zip(whole, zip(*alone, strict=True), again, strict=True):
        close(together[[1, 0]], torch.cat(single).numpy(), 1e-9)
        assert torch.equal(together, repeated)
        assert (together[0] - together[1]).abs().max() > 0.01 * together.std()


def test_a_joint_norm_has_the_statistics_of_all_tokens():
    """Without it, those of template, search region and padding count alike, which are one, four and a sixteenth here."""
    nets = {}
    for joint in (False, True):
        torch.manual_seed(0)
        small = dict(embed_dims=(8, 16, 24, 32), num_heads=4, depths=(1, 1, 1, 1, 1))
        net = SDTrack(small, head_width=16, joint_norm=joint).double()
        rows: list[torch.Tensor] = []
        layer = net.backbone.stages[-1].downsample
        layer.conv.register_forward_hook(lambda module, args, y, rows=rows: rows.append(y.detach().flatten(2)))
        for norm in tracking_norms(net):
            norm.momentum = None
        template, search = (255 * torch.rand(2, 3, side, side).double() for side in (64, 128))
        net.train()(template, search)
        means = [row.mean((0, 2)) for row in rows]
        assert (means[0] - means[1]).abs().max() > 0.01
        together = torch.cat(rows, 2)
        expected = together.mean((0, 2)) if joint else torch.stack(means).mean(0)
        assert torch.allclose(layer.bn.running_mean, expected, rtol=1e-9)
        if joint:
            assert torch.allclose(layer.bn.running_var, together.var((0, 2)), rtol=1e-9)
        nets[joint] = net.eval()
    nets[True].load_state_dict(nets[False].state_dict())
    with torch.no_grad():
        for ours, theirs in zip(nets[True](template, search), nets[False](template, search), strict=True):
            assert torch.equal(ours, theirs) and ours.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
@pytest.mark.sweep
def test_recomputation_changes_neither_gradients_nor_statistics(name):
    def step(how: str | None) -> dict[str, torch.Tensor]:
        net, _ = tracker(name)
        if how:
            setattr(net.backbone, how, True)
        net.train()
        boxes = torch.tensor([[0.4, 0.4, 0.2, 0.3], [0.3, 0.5, 0.3, 0.2]]).double()
        sum(centre_losses(net(*pairs(net)), boxes).values()).backward()
        grads = {k: p.grad for k, p in net.named_parameters() if not k.startswith("backbone.head.")}
        return grads | dict(net.named_buffers())

    plain = step(None)
    assert sum(bool(value.any()) for value in plain.values()) > 0.8 * len(plain)
    for how in ("memory_efficient", "grad_checkpointing"):
        for key, value in step(how).items():
            assert torch.allclose(value, plain[key], rtol=1e-9, atol=1e-12), (how, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
def test_16_bits(name):
    """Under autocast, scores and boxes have 32 bits, and the losses train every part that they train without it."""
    net, _ = tracker(name)
    net.float()
    template, search = (x.float() for x in pairs(net))
    first: list[torch.Tensor] = []
    net.backbone.stages[0].downsample.register_forward_hook(lambda module, args, y: first.append(y.detach()))
    with torch.no_grad():
        exact = net(template, search)
        with torch.autocast("cpu", torch.bfloat16):
            maps = net(template, search)
    assert first[1].dtype == torch.bfloat16  # later layers differ by more, since spikes flip
    assert (first[1] - first[0]).abs().max() < 0.02 * first[0].abs().max()
    for ours, theirs in zip(maps, exact, strict=True):
        assert ours.dtype == torch.float32 and ours.isfinite().all()
        assert 0.5 < ours.std() / theirs.std() < 2
    rounded = decode(maps)
    assert not torch.equal(rounded, rounded.bfloat16())
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = centre_losses(net(template, search), torch.tensor([[0.4, 0.4, 0.2, 0.3]]).expand(2, 4))
    sum(losses.values()).backward()
    grads = {key: p.grad for key, p in net.named_parameters() if not key.startswith("backbone.head.")}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert sum(bool(grad.any()) for grad in grads.values()) > 0.8 * len(grads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's and SpikingJelly's own while they are traced
@pytest.mark.parametrize(
    "options",
    [dict(mixer="srb", sep_conv=True, variant="2x2"), pytest.param(dict(), marks=pytest.mark.whole)],
    ids=["2x2_srb", "1x4_conv"],
)
def test_compiled(options):
    """The gradients of a compiled tracker are those of ordinary execution; with one block of each kind, tracing is short."""
    boxes = torch.tensor([[0.4, 0.4, 0.2, 0.3]]).double().expand(2, 4)

    def gradients(compiled: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        arch = dict(embed_dims=(8, 8, 16, 16), num_heads=2, depths=(1, 1, 1, 1, 1))
        net = SDTrack(arch, head_width=16, **options).double()
        if compiled:
            net.compile(backend="aot_eager")
        sum(centre_losses(net(*pairs(net)), boxes).values()).backward()
        return {key: p.grad for key, p in net.named_parameters() if p.grad is not None}

    wanted, got = gradients(False), gradients(True)
    rounding = 1e-13 * max(float(value.abs().max()) for value in wanted.values())  # biases in front of norms have none
    assert wanted.keys() == got.keys() and sum(bool(value.any()) for value in wanted.values()) > 0.8 * len(wanted)
    for key, value in wanted.items():
        assert torch.allclose(got[key], value, rtol=1e-6, atol=rounding), key
