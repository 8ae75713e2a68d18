"""Models that keep something between calls: states of neurons, tables and counters; every batch starts as the model was."""

import copy
import random
from collections import UserDict, deque
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_autograd import field_over_time
from torch import nn

from sterf_plugins.erf import check_field, compute_erf


@dataclass
class State:
    value: torch.Tensor | None = None


class Plain:
    value = None


class Remembers(nn.Module):
    """Keeps a state in a plain attribute, a buffer, a list, a dict or another object, and adds it to its output."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.state = None
        self.kept, self.named = [], {}
        self.register_buffer("sum", torch.zeros(1))
        self.register_buffer("empty", None)
        self.record, self.plain = State(), Plain()
        self.nested, self.queue = [dict(inner={})], deque(maxlen=1)
        self.unlisted = [Counts()]

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "attribute":
            y = y if self.state is None else y * self.state
            self.state = y.detach() * 2
        elif self.kind == "buffer":
            y = y + self.sum
            self.sum = y.mean().detach()
        elif self.kind == "empty buffer":
            y = y if self.empty is None else y * self.empty
            self.empty = y.detach() * 2
        elif self.kind == "new buffer":
            y = y * getattr(self, "new", 1)
            self.register_buffer("new", y.detach() * 2)
        elif self.kind == "in place":
            y = y * (1 + self.sum)
            self.sum += 1
        elif self.kind == "list":
            y = y * (1 + len(self.kept))
            self.kept.append(y.detach())
        elif self.kind in ("record", "plain", "another record"):
            held = self.plain if self.kind == "plain" else self.record
            y = y if held.value is None else y * held.value
            if self.kind == "another record":
                self.record = State(y.detach() * 2)
            else:
                held.value = y.detach() * 2
        elif self.kind == "nested":
            inner = self.nested[0]["inner"]
            y = y * inner.get("value", 1)
            inner["value"] = y.detach() * 2
        elif self.kind == "queue":
            y = y * (self.queue[0] if self.queue else 1)
            self.queue.append(y.detach() * 2)
        elif self.kind == "unlisted":
            y = self.unlisted[0](y)
        else:
            y = y * (1 + len(self.named))
            self.named[len(self.named)] = y.detach()
            self.late = y.detach()
            self.helper = torch.tanh  # no state: it stays
        return y


class Counts(nn.Module):
    """A module in a list that is no ``ModuleList``, which the model does not know of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, y):
        self.calls += 1
        return y * self.calls


KINDS = [
    "attribute",
    "buffer",
    "empty buffer",
    "new buffer",
    "in place",
    "list",
    "dict",
    "record",
    "another record",
    "plain",
    "nested",
    "queue",
    "unlisted",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_starts_with_the_state_that_the_model_had(kind):
    torch.manual_seed(0)
    model, x = Remembers(kind), torch.randn(4, 3, 8, 8)
    names = set(vars(model))
    wrapped = nn.Sequential(model)
    one, two = (compute_erf(wrapped, x, "0", batch_size=n).spatial["0"] for n in (4, 2))
    assert np.allclose(one, two, atol=1e-7)
    assert model.empty is None and not hasattr(model, "new")
    assert set(vars(model)) - {"helper"} == names and model.state is None and not model.kept and not model.named
    assert model.sum.item() == 0 and model.unlisted[0].calls.item() == 0
    assert (
        model.record == State() and model.plain.value is None and model.nested == [dict(inner={})] and not model.queue
    )


class Neuron:
    """A neuron that is no module, as people write their first ones."""

    def __init__(self):
        self.potential, self.calls = 0.0, 0

    def __call__(self, y):
        self.potential, self.calls = self.potential + y.detach(), self.calls + 1
        return y * self.potential * self.calls


class Keeper(nn.Module):
    """Keeps what the name of a function says, by which it multiplies its output."""

    shared: dict[int, float] = {}  # of all objects of the class

    def __init__(self, factor):
        super().__init__()
        self.factor, self.conv = factor, nn.Conv2d(3, 4, 3, padding=1)
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(0), random.Random(0)
        self.space, self.named, self.neuron = SimpleNamespace(calls=0), UserDict(), Neuron()
        self.array, self.scalar, self.row, self.once = np.ones(1), np.int64(0), torch.ones(1), 1.0
        self.memory = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        y = self.conv(x)
        return y * self.factor(self, y)

    def of_torch(self, y):
        return torch.rand(y.shape[1:], generator=self.torch)

    def of_numpy(self, y):
        return self.numpy.random()

    def of_python(self, y):
        return self.python.random()

    def of_a_namespace(self, y):
        self.space.calls += 1
        return self.space.calls

    def of_a_user_dict(self, y):
        self.named[len(self.named)] = y.detach()
        return len(self.named)

    def of_the_class(self, y):
        self.shared[len(self.shared)] = 1.0
        return len(self.shared)

    def of_no_module(self, y):
        return self.neuron(torch.ones(()))

    def of_an_array(self, y):
        self.array += 1
        return float(self.array[0])

    def of_a_scalar(self, y):
        self.scalar = self.scalar + 1
        return int(self.scalar)

    def of_a_longer_tensor(self, y):
        self.row.resize_(len(self.row) + 1).fill_(1.0)
        return len(self.row)

    def of_a_deleted_one(self, y):
        return vars(self).pop("once", 2.0)

    def of_a_frozen_parameter(self, y):
        self.memory.data.add_(1.0)
        return self.memory

    def of_replaced_memory(self, y):
        self.conv.bias.data = self.conv.bias.data + 1.0
        return self.conv.bias[0].detach()

    def of_a_replaced_parameter(self, y):
        self.memory = nn.Parameter(self.memory.detach() + 1.0, requires_grad=False)
        return self.memory


@pytest.mark.parametrize("factor", [value for name, value in vars(Keeper).items() if name.startswith("of_")])
def test_whatever_keeps_a_state_is_put_back(factor):
    torch.manual_seed(0)
    model, x = Keeper(factor), torch.randn(4, 3, 6, 6)
    model.shared.clear()
    bias, memory = model.conv.bias.clone(), model.memory
    fields = [compute_erf(nn.Sequential(model), x, "0", batch_size=n).spatial["0"] for n in (4, 2, 1)]
    assert fields[0].any() and all(np.allclose(fields[0], field, rtol=1e-5) for field in fields[1:])
    assert model.torch.get_state().equal(torch.Generator().get_state())
    assert (model.numpy.random(), model.python.random()) == (
        np.random.default_rng(0).random(),
        random.Random(0).random(),
    )
    assert (model.space.calls, len(model.named), len(model.shared), model.neuron.calls) == (0, 0, 0, 0)
    assert (float(model.array[0]), int(model.scalar), len(model.row), model.once) == (1.0, 0, 1, 1.0)
    assert model.memory is memory and memory.item() == 1.0 and torch.equal(model.conv.bias, bias)


class Positions(nn.Module):
    """A table that is made anew for each size of the input, as tables of positions are, and a counter of calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Identity()
        self.size = self.table = None
        self.calls, self.lengths = 0, []

    def forward(self, x):
        self.calls += 1
        self.lengths.append(len(x))
        y = self.conv(x)
        if self.size != tuple(y.shape[-2:]):
            self.size = tuple(y.shape[-2:])
            self.table = torch.linspace(1, 2, y.shape[-1]).expand(self.size).clone()
        return self.out(y * self.table * (1 if self.calls % 2 else 10))


@pytest.mark.parametrize("before", [None, 6])
def test_a_table_and_the_size_that_it_was_made_for_go_back_together(before):
    torch.manual_seed(0)
    model, x = Positions(), torch.randn(5, 3, 8, 8)
    if before is not None:
        model(torch.randn(1, 3, before, before))
    size, calls, lengths = model.size, model.calls, list(model.lengths)
    one, two = (compute_erf(model, x, "out", batch_size=n).spatial["out"] for n in (1, 5))
    assert np.allclose(one, two, rtol=1e-5)
    assert (model.size, model.calls, model.lengths) == (size, calls, lengths)
    assert (model.table is None) == (before is None)


def test_what_a_module_makes_in_its_first_call_is_made_once():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.made = False

        def forward(self, x):
            if not self.made:
                self.conv, self.made = nn.Conv2d(3, 4, 3, padding=1), True
            return self.conv(x)

    model, x = nn.Sequential(Lazy()), torch.randn(3, 3, 8, 8)
    first = compute_erf(model, x, "0", batch_size=1).spatial["0"]
    assert model[0].made and np.array_equal(first, compute_erf(model, x, "0", batch_size=1).spatial["0"])


class Collects(nn.Module):
    """Gives its modules hooks in its first call, and notes that it has, as Hugging Face's models do for hidden states."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 8))
        self.found, self.hooked = [], False

    def forward(self, x):
        if not self.hooked:
            for module in (self.first, self.second):
                module.register_forward_hook(lambda module, arguments, output: self.found.append(output))
            self.hooked = True
        self.found.clear()
        self.second(self.first(x))
        return self.out(torch.cat(self.found, 1))


def test_hooks_that_a_model_gives_its_modules_are_there_once():
    torch.manual_seed(0)
    model, x = Collects(), torch.randn(3, 3, 8, 8)
    one, three = (compute_erf(model, x, "out", batch_size=n).spatial["out"] for n in (1, 3))
    assert np.allclose(one, three, rtol=1e-5)
    assert not model.hooked and not model.first._forward_hooks and not model.second._forward_hooks
    before = model(x)
    compute_erf(model, x, "out", batch_size=1)
    assert torch.equal(model(x), before) and len(model.first._forward_hooks) == 1


class Adapts(nn.Module):
    """Divides by a buffer that it changes in place in each pass, and that its backward pass needs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        y = torch.stack([self.conv(step) for step in x])
        self.scale.mul_(0.9).add_(0.1 * y.detach().abs().mean((0, 1, 3, 4)))
        return y / self.scale[:, None, None]


def test_a_buffer_that_is_changed_in_place_does_not_end_the_backward_pass():
    torch.manual_seed(0)
    model, x = nn.Sequential(Adapts()), torch.randn(4, 3, 2, 8, 8)
    result = compute_erf(model, x, "0", batch_size=3)
    assert np.allclose(result.spatial["0"], field_over_time(copy.deepcopy(model), x), rtol=1e-5)
    assert result.temporal["0"].any() and torch.equal(model[0].scale, torch.ones(4))
    check = check_field(model, x, "0", position="all", cells=4)
    assert check.maps["0"].any() and torch.equal(model[0].scale, torch.ones(4))


def test_a_backward_pass_that_fails_takes_one_layer_alone():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x + 1

    class Breaks(nn.Module):
        def forward(self, x):
            return Fails.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), Breaks())
    result = compute_erf(model, torch.randn(2, 3, 8, 8), "*")
    assert result.layers == ["0"] and "the backward pass from it fails: You must implement" in result.failed["1"]


def test_a_flag_of_a_class_does_not_become_one_of_its_object():
    class Checkpointed(nn.Conv2d):
        gradient_checkpointing = True

    model = nn.Sequential(Checkpointed(3, 2, 3, padding=1))
    compute_erf(model, torch.randn(1, 3, 8, 8), "0")
    assert model[0].gradient_checkpointing and "gradient_checkpointing" not in vars(model[0])


@pytest.mark.parametrize("kind", ["function", "module"])
def test_a_batch_norm_that_sees_all_inputs_of_a_pass_is_named(kind):
    class Norm(nn.BatchNorm2d):
        def forward(self, x):
            self.train()
            if kind == "module":
                return super().forward(x)
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True)

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), Norm(2)).double(), torch.randn(3, 3, 8, 8).double()
    with pytest.raises(
        ValueError, match=r"a BatchNorm takes mean and variance from all inputs of a pass.*batch_size=1"
    ):
        compute_erf(model, x, "1", calibrate=False)
    found = compute_erf(model, x, "1", calibrate=False, batch_size=1).spatial["1"]
    assert torch.equal(model[1].running_mean, torch.zeros(2).double()) and not model[1].num_batches_tracked
    leaf = x.clone().requires_grad_()
    y = torch.cat([model(image[None]) for image in leaf])
    (gradient,) = torch.autograd.grad(y[:, :, 4, 4].sum(), leaf)
    assert np.allclose(found, gradient.abs().mean((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}])
def test_a_model_that_mixes_the_inputs_of_a_pass_is_refused(options):
    class Centred(nn.Module):
        def forward(self, x):
            return x - 0.5 * x.mean(0, keepdim=True)

    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
    model, x = nn.Sequential(first, Centred(), last).double(), torch.randn(4, 3, 8, 8).double()
    with pytest.raises(ValueError, match=r"the model mixes the inputs of a pass.*layer '2'.*batch_size=1"):
        compute_erf(model, x, ["0", "2"], **options)
    in_front = compute_erf(model, x, "0", **options).spatial["0"]  # where nothing is mixed
    assert np.allclose(in_front[3:6, 3:6], first.weight.detach().sum(0).abs().mean(0))
    found = compute_erf(model, x, "2", batch_size=1).spatial["2"]
    assert np.allclose(
        found, 0.5 * compute_erf(nn.Sequential(first, last), x, "1").spatial["1"]
    )  # of itself half is left


def test_a_model_with_time_that_mixes_inputs_is_refused_and_dropout_is_not():
    class Centred(nn.Module):
        def forward(self, x):
            return x - 0.5 * x.mean(1, keepdim=True)

    class Masked(nn.Module):
        def forward(self, x):
            return x * (torch.rand_like(x) > 0.5)

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the model mixes the inputs of a pass"):
        compute_erf(nn.Sequential(Centred(), nn.Identity()), torch.randn(2, 3, 1, 6, 6), "1", batch_size=3)
    result = compute_erf(nn.Sequential(nn.Conv2d(1, 1, 1), Masked()), torch.randn(5, 1, 6, 6), "1", batch_size=5)
    assert np.flatnonzero(result.spatial["1"]).tolist() == [21]
