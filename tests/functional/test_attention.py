import pytest
import torch

from sterf_plugins.functional import integer_fire, linear_attention
from sterf_plugins.layers import SpikeAttention


def scores_first(q, k, v, scale):
    """(q k^T) v, the order with (N, N) scores; tokens last as in ours."""
    return (v @ (k.transpose(-2, -1) @ q)) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [1, 20, 1024])
def test_both_orders_are_bit_equal_for_spikes(tokens, dtype):
    torch.manual_seed(0)
    q, k = (integer_fire(torch.randn(2, 8, 16, tokens, dtype=dtype) * 2) for _ in range(2))
    v = integer_fire(torch.randn(2, 8, 64, tokens, dtype=dtype) * 2)
    assert torch.equal(linear_attention(q, k, v, 0.5), scores_first(q, k, v, 0.5))


@pytest.mark.parametrize(("levels", "exact"), [(1, True), (2, True), (3, False), (4, True), (5, False), (8, True)])
def test_products_of_spikes_are_exact_where_their_norm_is_a_power_of_two(levels, exact):
    torch.manual_seed(0)
    q, k, v = (torch.randint(0, levels + 1, (8, 8, 8, 32)).float() / levels for _ in range(3))
    ours, other = linear_attention(q, k, v, 1 / 32), scores_first(q, k, v, 1 / 32)
    assert torch.equal(ours, other) == exact
    if levels == 3:  # a tie rounds either way
        assert not torch.equal(integer_fire(ours, levels), integer_fire(other, levels))
    torch.testing.assert_close(ours, other)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_both_orders_agree_to_rounding_for_any_numbers(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, d, 100, dtype=dtype) for d in (6, 6, 24))
    ours, other = linear_attention(q, k, v, 0.8), scores_first(q, k, v, 0.8)
    assert ((ours - other).norm() / other.norm()).item() < tolerance


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match=r"`dim` \(=30\) must be divisible by `num_heads` \(=8\)"):
        SpikeAttention(30, 8)
