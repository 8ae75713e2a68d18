"""The bank and its convolution: values, gradients, and life in a training program."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sterf_plugins.erf import compute_erf
from sterf_plugins.stems import CovariantRFConv2d, CovariantStem, CovariantSTStem, RFBank, TemporalRF, covariant_like
from sterf_plugins.testing import check_stem

LEARN = ("sigma", "ratio", "angle")


def learnable(**options):
    return CovariantRFConv2d(3, 8, RFBank.for_kernel_size(7, learn=LEARN), **options)


def test_the_default_bank():
    bank = RFBank()
    assert len(bank) == 90
    assert bank.kernel_size == 19
    table = bank.table()
    assert sorted(set(zip(table["m"], table["n"], strict=True))) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    assert table["sigma"][0] == pytest.approx(1.0)
    assert table["ratio"][-1] == pytest.approx(2.0)
    assert table["phi"][-1] == pytest.approx(3 * math.pi / 4, abs=1e-5)


@pytest.mark.parametrize("size", [3, 7, 9, 13, 17])
def test_banks_for_a_window(size, recwarn):
    bank = RFBank.for_kernel_size(size)
    sigma = torch.tensor(bank.table()["sigma"])
    ratio = torch.tensor(bank.table()["ratio"])
    assert bank.kernel_size == max(7, size)
    assert (sigma * ratio.sqrt()).max() <= bank.kernel_size / 5 + 1e-5
    assert (sigma / ratio.sqrt()).min() >= 0.7
    assert not [w for w in recwarn if "sterf" in str(w.filename)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bounds", [None, (0.6, 4.0)])
def test_learnable_and_frozen_kernels_are_the_same(shared, bounds):
    frozen = RFBank((1.0, 1.5))
    learned = RFBank((1.0, 1.5), learn=LEARN, shared=shared, bounds=bounds)
    torch.testing.assert_close(learned.kernels(), frozen.kernels(), rtol=1e-4, atol=1e-5)
    assert not list(frozen.parameters())
    assert not frozen.state_dict()


def test_a_sum_of_fields_is_one_convolution():
    bank = RFBank((1.2,), orders=1)
    conv = CovariantRFConv2d(2, 5, bank, stride=2)
    x = torch.randn(2, 2, 21, 18)
    kernels = bank.kernels().flip((-2, -1)).unsqueeze(1)
    raw = torch.stack([F.conv2d(x[:, c : c + 1], kernels, stride=2, padding=bank.kernel_size // 2) for c in (0, 1)], 1)
    expected = torch.einsum("ocn,bcnhw->bohw", conv.mix, raw)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)
    depthwise = CovariantRFConv2d(2, None, bank, stride=2, mode="depthwise")
    torch.testing.assert_close(depthwise(x), raw.flatten(1, 2), rtol=1e-4, atol=1e-5)
    aggregate = CovariantRFConv2d(2, None, bank, stride=2, mode="aggregate")
    torch.testing.assert_close(aggregate(x), raw.sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conv(x.expand(3, *x.shape))[1], conv(x))
    torch.testing.assert_close(conv.fuse()(x), conv(x))


def test_white_input_has_the_variance_of_kaimings_start():
    conv = CovariantRFConv2d(3, 16, RFBank.for_kernel_size(7))
    assert conv(torch.randn(8, 3, 32, 32))[:, :, 4:-4, 4:-4].var().item() == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("learn", [("sigma",), LEARN, ("frame",)])
def test_gradcheck_of_the_fields(learn):
    bank = RFBank((1.4,), (1.0, 1.5), n_angles=2, orders=1, kernel_size=7, learn=learn).double()
    parameters = list(bank.parameters())

    def kernels(*values):
        return torch.func.functional_call(bank, dict(zip(names, values, strict=True)), ())

    names = [name for name, _ in bank.named_parameters()]
    bank.forward = bank.kernels
    assert torch.autograd.gradcheck(kernels, parameters)


def test_dtypes_and_autocast():
    conv, x = learnable(), torch.randn(2, 3, 16, 16)
    expected = conv(x)
    torch.testing.assert_close(copy.deepcopy(conv).double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5)
    half = copy.deepcopy(conv).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in conv.parameters())
    stem = CovariantSTStem(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = stem(torch.randn(3, 2, 3, 8, 8))
    assert state.dtype == torch.float32


class Stacked(nn.Module):
    """Space and time for inputs with and without a time axis."""

    def __init__(self, kind="li", **options):
        super().__init__()
        bank = RFBank.for_kernel_size(7, learn=LEARN)
        self.stem = CovariantSTStem(3, 4, bank, TemporalRF((2.0, 4.0), kind, **options), stride=2)

    def forward(self, x):
        return self.stem(x)[0]


@pytest.mark.parametrize("kind", ["li", "lif"])
@pytest.mark.slow
def test_compile_has_no_graph_breaks(kind):
    torch.compiler.reset()
    cases = [(Stacked(kind), torch.randn(4, 2, 3, 16, 16))]
    if kind == "li":
        cases += [(learnable(), torch.randn(*time, 2, 3, 16, 16)) for time in ((), (2,))]
    for module, x in cases:
        compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
        y, expected = compiled(x), module(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        y.square().sum().backward()
        expected.square().sum().backward()
        for a, b in zip(compiled.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_export():
    for module, x in (
        (CovariantStem(3, 8).eval(), torch.randn(2, 3, 16, 16)),
        (Stacked().eval(), torch.randn(4, 2, 3, 16, 16)),
    ):
        exported = torch.export.export(module, (x,)).module()
        torch.testing.assert_close(exported(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_stem_contract():
    check_stem("covariant")
    for init in ("rf-free", "uniform"):
        check_stem("covariant", init=init)
    check_stem("covariant", learn=LEARN, stride=4, in_chans=2)


@pytest.mark.parametrize("kernel", [(7, 2, 3), (4, 4, 0), (16, 16, 0), (3, 2, 1), (7, 4, 2), (3, 1, 1)])
def test_sizes_are_those_of_the_replaced_convolution(kernel):
    size, stride, padding = kernel
    old = nn.Conv2d(3, 8, size, stride, padding)
    new = covariant_like(old)
    for h, w in ((32, 48), (64, 16)):
        x = torch.zeros(1, 3, h, w)
        assert new(x).shape == old(x).shape
    if size % 2:
        for h in range(17, 40):
            assert new(torch.zeros(1, 3, h, h)).shape == old(torch.zeros(1, 3, h, h)).shape


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_effective_receptive_field_is_the_kernel(angle):
    bank = RFBank((1.5,), (1.8,), angles=[angle], orders=[(1, 0)])
    conv = CovariantRFConv2d(1, 1, bank, mode="aggregate")
    result = compute_erf(nn.Sequential(conv), torch.randn(2, 1, 33, 33), layers=["0"], reduce="signed")
    half = bank.kernel_size // 2
    window = torch.as_tensor(result.spatial["0"])[16 - half : 17 + half, 16 - half : 17 + half]
    torch.testing.assert_close(window, bank.kernels()[0].flip((-2, -1)), rtol=1e-4, atol=1e-6)
    temporal = TemporalRF((4.0,))

    class Time(nn.Module):
        def __init__(self):
            super().__init__()
            self.time = temporal
            self.out = nn.Identity()

        def forward(self, x):
            return self.out(self.time(x)[0])

    result = compute_erf(Time(), torch.rand(8, 2, 1, 5, 5), layers=["out"])
    lags = torch.as_tensor(result.temporal["out"])
    a = math.exp(-1 / 4.0)
    torch.testing.assert_close(lags / lags[0], torch.tensor([a**k for k in range(8)]), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RFBank(()), "`sigmas` is empty"),
        (lambda: RFBank((1.0,), orders=[]), "at least one"),
        (lambda: RFBank((1.0,), (0.5,)), ">= 1"),
        (lambda: RFBank((0.2,)), "discretization='discrete'"),
        (lambda: RFBank((0.25,), discretization="integrated_comp"), "needs more than"),
        (lambda: RFBank((4.0,), kernel_size=5), "too small for a field"),
        (lambda: RFBank((1.0,), kernel_size=8), "must be odd"),
        (lambda: RFBank((1.0,), discretization="fft"), "`discretization`"),
        (lambda: RFBank((1.0,), learn=("size",)), "`learn`"),
        (lambda: RFBank((1.0,), truncate=0), "truncate"),
        (lambda: RFBank((1.0,), truncate=math.inf), "`truncate` is inf"),
        (lambda: RFBank(1.0), r"`sigmas` is 1.0 \(float\); it must be a list or tuple, such as \[1.0\]"),
        (lambda: RFBank("12"), "`sigmas` is '12'"),
        (lambda: RFBank(["1"]), "`sigmas` is '1' .*a finite number"),
        (lambda: RFBank((1.0, 1)), r"`sigmas` has 1.0 twice: \(1.0, 1.0\); give each entry once"),
        (lambda: RFBank(ratios=(2.0, 2.0)), "`ratios` has 2.0 twice"),
        (lambda: RFBank(angles=(0.0, 0.0)), "`angles` has 0.0 twice"),
        (lambda: RFBank(orders=[(1, 0), (0, 1), [1, 0]]), r"`orders` has \(1, 0\) twice"),
        (lambda: RFBank.from_matrices([[[4.0, 0.0], [0.0, 1.0]]] * 2), "`covariances, directions` has .* twice"),
        (lambda: RFBank(learn=3), "`learn` is 3"),
        (lambda: RFBank(bounds=(1,)), r"`bounds` is \(1,\); it must be two numbers"),
        (lambda: RFBank(bounds=(0.5, None)), "`bounds` is None"),
        (lambda: RFBank((1.0,), orders=True), "`orders` is True"),
        (lambda: RFBank((1.0,), orders=[(1.5, 0)]), "`orders` is 1.5"),
        (lambda: RFBank((1.0,), orders=[(1, 0, 0)]), r"`orders` is \[\(1, 0, 0\)\]; it must be an int, or a list"),
        (lambda: RFBank((1.0,), orders=[(1, -1)]), "m and n must be >= 0"),
        (lambda: RFBank((1.0,), zero_dc="no"), "`zero_dc` is 'no'"),
        (lambda: RFBank((1.0,), shared="no"), "`shared` is 'no'"),
        (lambda: RFBank((1.0,), learn=("sigma", "frame")), "stands alone"),
        (lambda: CovariantRFConv2d(3, 4, stride=0), "`stride` is 0"),
        (lambda: CovariantRFConv2d(3, 4, stride=(1, 2, 3)), r"`stride` is \(1, 2, 3\)"),
        (lambda: CovariantRFConv2d(3, 4, bias="no"), "`bias` is 'no'"),
        (
            lambda: CovariantStem(3, 4, kernel_size=9, bank=dict(orders=1)),
            "`kernel_size` is 9, which is for the default",
        ),
        (lambda: RFBank((5.0,), learn=("sigma",), bounds=(0.5, 2.0)), "`bounds`"),
        (lambda: RFBank((1.0, 2.0), learn=("sigma",), bounds=(1.0, 4.0)), "one at a bound would never be learned"),
        (lambda: RFBank((1.0, 2.0), learn=("sigma",), bounds=(0.5, 2.0)), "one at a bound would never be learned"),
        (lambda: RFBank((1.0,), learn=("sigma",), bounds=(2.0, 1.0)), "must be 0 < low < high"),
        (
            lambda: RFBank((1.0,), bounds=(0.5, 2.0)),
            r"`bounds` is \(0.5, 2.0\), .* a learned sigma, and `learn` is \(\);",
        ),
        (lambda: RFBank((1.0,), learn="frame", bounds=(0.5, 2.0)), r"a learned sigma, and `learn` is \('frame',\)"),
        (lambda: RFBank.from_matrices([[[1.0, 2.0], [2.0, 1.0]]]), r"`covariances\[0\]`"),
        (lambda: RFBank.from_matrices([[1.0, 0.0], [0.0, 1.0]]), "must be \\(N, 2, 2\\)"),
        (lambda: RFBank.from_matrices([[[1.0, 0.0], [0.0, 1.0]]], [[0.0, 0.0]]), "no direction being zero"),
        (lambda: RFBank().transform([[1, 1], [1, 1]]), "invertible"),
        (lambda: CovariantRFConv2d(3, 4, mode="aggregate"), "gives 30 channels"),
        (lambda: CovariantRFConv2d(3), "needs the number of output channels"),
        (lambda: CovariantRFConv2d(3, 4, padding="valid"), "`padding`"),
        (lambda: CovariantRFConv2d(3, 4, padding=True), "`padding` is True"),
        (lambda: CovariantRFConv2d(3, 4, stride=True), "`stride` is True"),
        (lambda: RFBank((1.0,), orders=True), "`orders` is True"),
        (lambda: RFBank((1.0,), orders=[(0.5, 1)]), "`orders` is 0.5"),
        (lambda: CovariantRFConv2d(3, 4)(torch.zeros(1, 4, 8, 8)), "must be \\(B, 3, H, W\\)"),
        (lambda: covariant_like(nn.Conv2d(4, 4, 3, groups=4)), "both must be 1"),
        (lambda: covariant_like(nn.Conv2d(4, 4, 4, 1, 1)), "another kernel_size"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_wrong_types():
    with pytest.raises(TypeError, match="RFBank"):
        CovariantRFConv2d(3, 4, nn.Identity())
    with pytest.raises(TypeError, match=r"only an nn\.Conv2d"):
        covariant_like(nn.Linear(3, 4))


def test_warnings_name_the_remedy():
    with pytest.warns(UserWarning, match="integrated_comp"):
        RFBank((0.7,), (1.0,))
    with pytest.warns(UserWarning, match="below 2"):
        RFBank((2.0,), (1.0,), kernel_size=7)


@pytest.mark.parametrize("bias", [False, True])
def test_the_plain_convolution_has_kernels_and_bias(bias):
    torch.manual_seed(0)
    layer = CovariantRFConv2d(3, 6, bank=RFBank((1.5, 2.0)), bias=bias, padding=2, stride=2).double().eval()
    if bias:
        torch.nn.init.normal_(layer.bias)
    plain = layer.fuse()
    assert type(plain) is nn.Conv2d and (plain.bias is not None) == bias
    x = torch.randn(2, 3, 21, 17, dtype=torch.float64)
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-10, atol=1e-12)
