"""The folded weight of the covariant convolution is never an old one, however parameters are set, averaged, copied or loaded."""

import copy
import io
import pickle
import types

import pytest
import torch
from torch import nn

from sterf_plugins.stems import CovariantRFConv2d, CovariantStem, RFBank, TemporalRF

LEARN = ("sigma", "ratio", "angle")


def learnable(**options):
    return CovariantRFConv2d(3, 8, RFBank.for_kernel_size(7, learn=LEARN), **options)


def test_gradients_go_on_after_a_validation_pass():
    """norse's fields stop learning for ever after one pass without gradients."""
    conv = learnable()
    optimizer = torch.optim.SGD(conv.parameters(), 0.01)
    for _ in range(3):
        before = conv.bank.log_sigma.detach().clone()
        conv.train()
        optimizer.zero_grad()
        conv(torch.randn(2, 3, 16, 16)).square().mean().backward()
        optimizer.step()
        assert not torch.equal(before, conv.bank.log_sigma)
        conv.eval()
        with torch.no_grad():
            x = torch.randn(1, 3, 16, 16)
            kept = conv(x)
            torch.testing.assert_close(conv(x), kept)
        torch.testing.assert_close(conv(x).detach(), kept)  # what is kept is what is recomputed


def by_data(conv, values):
    for parameter, value in zip(conv.parameters(), values, strict=True):
        parameter.data = value


def in_place(conv, values):
    for parameter, value in zip(conv.parameters(), values, strict=True):
        parameter.data.copy_(value)


def by_vector(conv, values):
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(values), conv.parameters())


def by_swap(conv, values):
    """As mmengine's ``EMAHook`` puts the averaged parameters in place."""
    for parameter, value in zip(conv.parameters(), values, strict=True):
        kept = parameter.data.clone()
        parameter.data.copy_(value)
        value.data.copy_(kept)


@pytest.mark.parametrize("change", [by_data, in_place, by_vector, by_swap])
def test_the_weight_is_never_an_old_one(change):
    """None of these ways to change a parameter is seen by autograd's version counters."""
    conv, other = learnable().double().eval(), learnable().double().eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
        before, expected = conv(x), other(x)
        change(conv, [p.detach().clone() for p in other.parameters()])
        assert (expected - before).abs().max() > 0.01 * before.abs().max()
        torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


def test_the_weight_is_not_an_old_one_when_mmengine_averages_and_swaps():
    """The real ``ExponentialMovingAverage`` and ``EMAHook``; each output is that of a new layer with the state dict."""

    def is_up_to_date(conv):
        fresh = learnable().double()
        fresh.load_state_dict(conv.state_dict())
        return torch.equal(conv(x), fresh(x))

    hook = pytest.importorskip("mmengine.hooks").EMAHook(momentum=0.4)
    conv, x = learnable().double().eval(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    runner = types.SimpleNamespace(model=conv, iter=0)
    hook.before_run(runner)
    average = hook.ema_model
    with torch.no_grad():
        for _ in range(3):
            by_data(conv, [p * 1.1 + 0.01 for p in conv.parameters()])
            hook.after_train_iter(runner, 0)
            assert is_up_to_date(conv) and is_up_to_date(average.module)
        trained, averaged = conv(x), average(x)
        assert not torch.allclose(trained, averaged, rtol=1e-3)
        hook.before_val_epoch(runner)
        assert torch.equal(conv(x), averaged) and is_up_to_date(conv)
        hook.after_val_epoch(runner)
        assert torch.equal(conv(x), trained) and torch.equal(average(x), averaged)


def test_accumulated_gradients_add():
    conv, x = learnable().double(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    conv(x).square().sum().backward()
    whole = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    for part in x.split(2):
        conv(part).square().sum().backward()
    for p, expected in zip(conv.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected)


@pytest.mark.parametrize("init", ["rf", "rf-free", "uniform"])
@pytest.mark.parametrize("learn", [(), LEARN])
def test_copies_files_and_averages(init, learn):
    conv = CovariantRFConv2d(3, 8, RFBank.for_kernel_size(7, learn=learn), init=init)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = conv(x)
        for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
            torch.testing.assert_close(twin(x), expected)
        other = CovariantRFConv2d(3, 8, RFBank.for_kernel_size(7, learn=learn), init=init)
        other(x)  # has a weight of its own kept
        file = io.BytesIO()
        torch.save(conv.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file), strict=True)
        torch.testing.assert_close(other(x), expected)
    average = torch.optim.swa_utils.AveragedModel(conv)
    average.update_parameters(conv)
    with torch.no_grad():
        torch.testing.assert_close(average(x), expected)


def small_stem(sigma=2.0, **options):
    return CovariantStem(3, 6, bank=dict(sigmas=(1.4, sigma), ratios=(1,), **options)).eval()


def saved(module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_fields_that_are_not_learned_are_exact_whatever_made_their_memory():
    """Casts do not add up, and models of the meta device have the same fields, though no checkpoint holds them."""
    for build in (small_stem, lambda: small_stem(learn=("sigma",))):
        stem, x = build(), torch.randn(2, 3, 9, 9)
        cast = copy.deepcopy(stem).half().double()
        if not stem.conv.bank.learn:
            torch.set_default_dtype(torch.float64)
            exact = RFBank(sigmas=(1.4, 2.0), ratios=(1,))
            torch.set_default_dtype(torch.float32)
            assert torch.equal(cast.conv.bank.kernels(), exact.kernels())
            assert not torch.equal(cast.conv.bank.kernels(), stem.conv.bank.kernels().double())
        with torch.device("meta"):
            empty, assigned = build(), build()
        empty.to_empty(device="cpu").load_state_dict(stem.state_dict())
        assigned.load_state_dict(stem.state_dict(), assign=True)
        assert all(torch.equal(twin.eval()(x), stem(x)) for twin in (empty, assigned))
    with torch.device("meta"):
        time = TemporalRF((2.0, 4.0), learn_mu=False)
    assert torch.equal(time.to_empty(device="cpu").mus, TemporalRF((2.0, 4.0), learn_mu=False).mus)


@pytest.mark.parametrize("learn", [(), LEARN, "frame"])
def test_a_transformed_bank_has_the_precision_of_its_bank(learn):
    bank, shear = RFBank.for_kernel_size(7, learn=learn).double(), torch.tensor([[1.5, 0.5], [0.0, 2.0]]).double()
    new = bank.transform(shear)
    assert {x.dtype for x in [*new.parameters(), *new.buffers()]} == {torch.float64}
    torch.testing.assert_close(new.frames(), shear @ bank.frames(), rtol=1e-14, atol=1e-14)


def test_weights_that_are_loaded_beside_other_fields_are_told(recwarn):
    state = saved(small_stem())
    small_stem().load_state_dict(state)
    small_stem().load_state_dict(dict(state))  # without metadata nothing is known
    copy.deepcopy(small_stem()).double().load_state_dict(saved(nn.Sequential(small_stem())[0].double()))
    assert not recwarn
    with pytest.warns(
        UserWarning,
        match=r"saved with fields \(sigmas, .*=\[.* are loaded into a model with fields \(sigmas, .* \(RFBank\)",
    ):
        small_stem(2.1, kernel_size=13).load_state_dict(state)
    bounded = small_stem(learn=("sigma",), bounds=(1.0, 3.0))
    with pytest.warns(
        UserWarning, match=r"saved with bounds=\(1.0, 3.0\) are loaded into a model with bounds=\(1.0, 4.0\)"
    ):
        small_stem(learn=("sigma",), bounds=(1.0, 4.0)).load_state_dict(saved(bounded))
    with pytest.warns(UserWarning, match=r"saved with mus=.* are loaded into a model with mus=.* \(TemporalRF\)"):
        TemporalRF((2.0, 5.0), learn_mu=False).load_state_dict(saved(TemporalRF((2.0, 4.0), learn_mu=False)))


def test_mmengine_tells_of_other_fields(tmp_path):
    checkpoint = pytest.importorskip("mmengine.runner.checkpoint")
    state = checkpoint.weights_to_cpu(checkpoint.get_state_dict(nn.Sequential(small_stem())))
    checkpoint.save_checkpoint(dict(state_dict=state), str(tmp_path / "stem.pth"))
    with pytest.warns(UserWarning, match=r"\(RFBank\)"):
        checkpoint.load_checkpoint(nn.Sequential(small_stem(2.1, kernel_size=13)), str(tmp_path / "stem.pth"))
