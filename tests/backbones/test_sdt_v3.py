import copy
import json
from collections import OrderedDict

import pytest
import torch
from live import equal, images, live

from sterf_plugins.backbones import SDTV3, convert_state_dict
from sterf_plugins.checkpoints import infer_architecture
from sterf_plugins.layers import ConvBN2d
from sterf_plugins.testing import check_backbone, check_stem

NANO = dict(embed_dims=[8, 16, 24, 32], num_heads=4)
MIXERS = ["conv", "mlpixer", "srb"]


def count(**arguments) -> int:
    """Parameters of the released form, whose mixers have no BN in front of their hidden spikes."""
    with torch.device("meta"):
        return sum(p.numel() for p in SDTV3(norm_hidden=False, **arguments).parameters())


# specs: parameters measured by instantiating the released models
@pytest.mark.parametrize(
    ("arch", "layer_scale", "plain", "mlpixer", "mlpixer6", "srb", "conv6"),
    [
        ("tiny", 4916064, 4912608, 4304640, 5037568, 4608096, 5949344),
        ("medium", 9787008, 9782112, 8415504, 9856080, 9098016, 11905728),
        ("base", 18633272, 18626504, 16198152, 18972904, 17411272, 22615080),
    ],
)
def test_parameter_counts(arch, layer_scale, plain, mlpixer, mlpixer6, srb, conv6):
    assert count(arch=arch, layer_scale=1e-6) == layer_scale
    assert count(arch=arch) == plain
    assert count(arch=arch, mixer="mlpixer") == mlpixer
    assert count(arch=arch, mixer="mlpixer", ratio=6) == mlpixer6
    assert count(arch=arch, mixer="srb") == srb
    assert count(arch=arch, mixer="srb", layout="channel") == srb
    assert count(arch=arch, ratio=6) == conv6


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("tiny", (5105608, 4497640, 5230568, 4801096)), ("base", (18987504, 16559152, 19333904, 17772272))],
)
def test_parameter_counts_with_the_1000_class_head(arch, expected):
    kinds = [("conv", 4), ("mlpixer", 4), ("mlpixer", 6), ("srb", 4)]
    assert tuple(count(arch=arch, mixer=m, ratio=r, num_classes=1000) for m, r in kinds) == expected


@pytest.mark.parametrize("mixer", MIXERS)
def test_any_size_is_accepted_and_strides_are_true(mixer):
    model = SDTV3(NANO, mixer, out_indices=(0, 1, 2, 3, 4)).eval()
    shapes = [tuple(y.shape[1:]) for y in model(torch.randn(1, 3, 250, 333))]
    assert shapes == [(4, 125, 167), (8, 63, 84), (16, 32, 42), (24, 16, 21), (32, 16, 21)]
    assert model.out_strides == (2, 4, 8, 16, 16)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("layout", ["raster", "channel"])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.sweep
@pytest.mark.slow
def test_gradient_of_one_sample_is_the_same_in_a_batch(mixer, layout, train):
    """PyTorch's CPU BatchNorm is wrong at batch 1 for these gradients; ours must not be.

    In training mode the statistics are those of the batch, so the batch holds the same sample twice.
    """
    torch.manual_seed(0)
    model = SDTV3(NANO, mixer, layout=layout).double()
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    model.train(train)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    grads = []
    for batch in (1, 2):
        leaf = x.repeat(batch, 1, 1, 1).requires_grad_()
        # A token-wise loss gives the features gradients in channels-last order, which is what goes wrong.
        loss = sum(y[:1].flatten(2).transpose(1, 2).contiguous().square().sum() for y in model(leaf))
        if train:
            loss = sum(y.flatten(2).transpose(1, 2).contiguous().square().sum() for y in model(leaf)) / batch
        (grad,) = torch.autograd.grad(loss, leaf)
        grads.append(grad.sum(0) if train else grad[0])
    assert grads[0].norm() > 0
    assert (grads[0] - grads[1]).norm() / grads[1].norm() < 1e-9


@pytest.mark.parametrize("mixer", MIXERS)
def test_stateless_and_alive_in_eval(mixer):
    model, x = live(SDTV3(NANO, mixer)), images().requires_grad_()
    first, second = model(x), model(x)
    assert equal(first, second)
    (grad,) = torch.autograd.grad(sum(y.sum() for y in first), x)
    assert grad.norm() > 0


def test_backbone_contract():
    check_backbone(lambda: SDTV3(NANO, "srb"))


def test_conv_stem_contract():
    check_stem("conv")


def test_the_input_is_left_as_it_was():
    x = torch.randn(1, 3, 32, 32)
    before, stride = x.clone(), x.stride()
    SDTV3(NANO).eval()(x)
    assert torch.equal(x, before)
    assert x.stride() == stride


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    model, x = live(SDTV3(NANO, "srb").double()), images().double()
    grads = []
    for flag in (False, True):
        model.grad_checkpointing = flag
        model.zero_grad(set_to_none=True)
        sum(y.square().sum() for y in model(x)).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(a.any() and torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", ["momentum", "cumulative", "sync"])
@pytest.mark.slow
def test_checkpointing_counts_images_once(kind):
    torch.manual_seed(0)
    model, x = SDTV3(NANO, "srb", norm_hidden=True).train(), torch.randn(2, 3, 64, 64)
    if kind == "sync":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.momentum = None if kind == "cumulative" else 0.1
    states = []
    for flag in (False, True):
        trained = copy.deepcopy(model)
        trained.grad_checkpointing = flag
        for _ in range(2):
            first, *others = trained(x)
            first.square().mean().backward(retain_graph=True)
            sum(y.square().mean() for y in others).backward()
        states.append([*trained.state_dict().values(), *(p.grad for p in trained.parameters() if p.grad is not None)])
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_ratio_in_the_mixer_dict_sets_the_mixers_alone():
    model = SDTV3(NANO, dict(type="mlpixer", ratio=6), ratio=4)
    assert model.stages[0].blocks[0].mixer.hidden == 6 * 4
    assert model.stages[3].blocks[0].mlp.fc1.conv.out_channels == 4 * 24


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_float_dtype(dtype):
    model = SDTV3(NANO, "mlpixer").to(dtype).eval()
    assert all(y.dtype == dtype for y in model(torch.randn(1, 3, 32, 32, dtype=dtype)))


def test_autocast():
    model = SDTV3(NANO, "srb").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(y.float().square().mean() for y in model(torch.randn(2, 3, 64, 64)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(arch="huge"), "`arch` is 'huge'; allowed: 'nano', 'tiny', 'medium', 'base'"),
        (dict(arch=dict(embed_dims=[8, 16, 24], num_heads=4)), "it must be four ints"),
        (dict(arch=dict(embed_dims=[8, 16, 25, 32], num_heads=4)), "must divide the last two embed_dims"),
        (dict(arch=dict(embed_dims=[8, 16, 24, 32])), "`arch` has 'embed_dims'; as a dict it has exactly `embed_dims`"),
        (dict(arch=8), "`arch` is 8 .*one of 'nano', .*or a dict"),
        (dict(arch=dict(embed_dims=8, num_heads=4)), r"`arch\['embed_dims'\]` is 8 .*list or tuple"),
        (dict(layer_scale=float("nan")), "`layer_scale` is nan"),
        (dict(attn_factor="2"), "`attn_factor` is '2'"),
        (dict(mixer="mlpixr"), "unknown mixer 'mlpixr'; known: conv, mlpixer, srb"),
        (dict(stem="covv"), "unknown stem 'covv'"),
        (dict(levels=0), "`levels` is 0; it must be an int >= 1"),
        (dict(levels=2.5), "`levels` is 2.5"),
        (dict(layout="rows"), "`layout` is 'rows'; allowed: 'raster', 'channel'"),
        (dict(ratio=0), "`ratio` is 0"),
        (dict(drop_rate=2), "`drop_rate` is 2"),
        (dict(out_indices=(1, 5)), r"`out_indices` is \(1, 5\); give ascending feature levels out of 0, 1, 2, 3, 4"),
        (dict(out_indices=()), "`out_indices` is"),
        (dict(out_indices=(True, 2)), r"`out_indices` is \(True, 2\)"),
        (dict(out_indices=1), "`out_indices` is 1 .*list or tuple"),
        (dict(num_classes=-1), "`num_classes` is -1; it must be an int >= 1, or 0"),
        (dict(norm_hidden="no"), "`norm_hidden` is 'no'"),
        (dict(sep_conv=0), "`sep_conv` is 0 .*True or False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SDTV3(**arguments)


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (3, 32, 32)])
def test_wrong_channel_count(shape):
    with pytest.raises(ValueError, match=r"this model takes \(B, 3, H, W\)"):
        SDTV3(NANO)(torch.randn(*shape))


# --- conversion of published checkpoints ------------------------------------------------------------------------


@pytest.fixture
def published(golden):
    """A tiny MLPixer detector backbone under the published names."""
    return golden.case("bb_det_mlpixer_t8")[2]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()}, "meta": {}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: OrderedDict(
            [(f"backbone.{k}", v) for k, v in s.items()]
            + [
                ("neck.lateral_convs.0.1.0.conv.weight", torch.ones(1)),
                ("roi_head.bbox_head.fc_cls.weight", torch.ones(1)),
            ]
        ),
    ],
)
def test_containers_of_published_checkpoints(published, wrap):
    converted = convert_state_dict(wrap(published))
    SDTV3(NANO, "mlpixer", norm_hidden=False).load_state_dict(converted, strict=True)
    assert infer_architecture(converted)["mixer"] == "mlpixer"
    again = convert_state_dict(converted)  # our own names pass through
    assert again.keys() == converted.keys()


def test_unknown_missing_and_misshapen_entries_are_listed(published):
    with pytest.raises(ValueError, match=r"unknown keys \(1\):\n  block9.0.conv.weight"):
        convert_state_dict({**published, "block9.0.conv.weight": torch.ones(1)})
    partial = {k: v for k, v in published.items() if k != "downsample3.encode_bn.bias"}
    with pytest.raises(ValueError, match=r"stages.3.downsample.bn.bias: missing"):
        convert_state_dict(partial)
    bent = {**published, "ConvBlock1_1.0.fc2.weight": torch.ones(3, 3)}
    with pytest.raises(ValueError, match=r"stages.0.blocks.0.mixer.fc2.weight: shape \(3, 3\), expected \(4, 16\)"):
        convert_state_dict(bent)
    no_v = {k: v for k, v in published.items() if ".v_conv." not in k}
    with pytest.raises(ValueError, match="has q and k alone"):
        convert_state_dict(no_v)


@pytest.mark.parametrize("bad", [{}, {"model": {}}, {"epoch": 3, "lr": 0.1}])
def test_no_state_dict(bad):
    with pytest.raises(ValueError, match="no state dict of tensors"):
        convert_state_dict(bad)


def test_a_checkpoint_of_something_else():
    with pytest.raises(ValueError, match="unknown keys"):
        convert_state_dict({"layer1.0.conv1.weight": torch.ones(1)})


@pytest.mark.slow
def test_full_size_names_and_shapes(golden):
    """State dicts with the names and shapes of the full-size released models load strictly."""
    models = json.loads(golden.file("fullsize_params_shapes.json").read_text())
    checked = 0
    for entry in models:
        state = {k: torch.empty(shape, device="meta") for k, shape in entry["state_dict"].items()}
        converted = convert_state_dict(state)
        with torch.device("meta"):
            model = SDTV3(**infer_architecture(converted))
        model.load_state_dict(converted, strict=True, assign=True)
        checked += 1
    assert checked >= 4


def test_frozen_weights_leave_biases_their_gradient():
    block = ConvBN2d(4, 8, 3, bias=True).eval()
    for parameter in (block.conv.weight, block.bn.weight):
        parameter.requires_grad_(False)
    block(torch.randn(2, 4, 8, 8, requires_grad=True)).square().sum().backward()
    assert block.conv.bias.grad.abs().max() > 0
    assert block.bn.bias.grad.abs().max() > 0


def test_frozen_convolutions_keep_their_padding():
    block = ConvBN2d(4, 8, 3, padding_mode="reflect").eval()
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    before = block(x)
    assert torch.equal(block.requires_grad_(False)(x), before)
