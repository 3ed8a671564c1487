"""The torch references themselves: against torch's own functions, and against what they promise."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn import functional

from trimtab.kernels import attention, embed, gated, head, linear, norm, quantize, rope
from trimtab.kernels.quantize import GroupMatrix

FLOAT = {"atol": 1e-5, "rtol": 1e-5}

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda groups: groups * quantize.GROUP)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_norm_equals_torch() -> None:
    x, weight = noise(5, 96), noise(96, seed=1)
    torch.testing.assert_close(
        norm.reference(x, weight, 1e-5), functional.rms_norm(x, (96,), weight, 1e-5), **FLOAT
    )
    assert norm.reference(x.bfloat16(), weight, 1e-5).dtype == torch.bfloat16


def test_embed_scales_in_float32() -> None:
    table = noise(7, 4).bfloat16()
    got = embed.reference(torch.tensor([6, 0], dtype=torch.int32), table, 3.0)
    torch.testing.assert_close(got, table[[6, 0]].float() * 3, atol=0, rtol=0)


def test_linear_adds_in_float32() -> None:
    x, weight, bias, add = noise(3, 8), noise(5, 8, seed=1), noise(5, seed=2), noise(3, 5, seed=3)
    torch.testing.assert_close(linear.reference(x, weight, bias, add), x @ weight.T + bias + add, **FLOAT)
    half = linear.reference(x.bfloat16(), weight.bfloat16(), bias, add)
    assert half.dtype == torch.float32
    assert linear.reference(x.bfloat16(), weight.bfloat16(), bias).dtype == torch.bfloat16


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated_is_activation_times_up(activation: str) -> None:
    x, gate, up = noise(3, 8), noise(5, 8, seed=1), noise(5, 8, seed=2)
    z = x @ gate.T
    active = z * torch.sigmoid(z)
    if activation == "gelu_tanh":
        active = 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))
    got = gated.reference(x, torch.cat((gate, up)), activation)
    torch.testing.assert_close(got, active * (x @ up.T), **FLOAT)
    with pytest.raises(ValueError, match="no activation 'relu'"):
        gated.reference(x, torch.cat((gate, up)), "relu")


def test_rope_keeps_lengths_and_depends_on_distance_only() -> None:
    frequencies = torch.tensor([1.0, 0.3, 0.01])
    q, k = noise(1, 2, 8), noise(1, 2, 8, seed=1)

    def product(at: int, to: int) -> torch.Tensor:
        left = rope.reference(q, torch.tensor([at]), frequencies)
        right = rope.reference(k, torch.tensor([to]), frequencies)
        return (left * right).sum(-1)

    torch.testing.assert_close(product(17, 5), product(40, 28), atol=1e-4, rtol=0)
    turned = rope.reference(q, torch.tensor([9]), frequencies)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), **FLOAT)
    torch.testing.assert_close(turned[..., 6:], q[..., 6:], atol=0, rtol=0)  # beyond the rotated part
    torch.testing.assert_close(
        rope.reference(q, torch.tensor([0]), frequencies, 1.5)[..., :6], q[..., :6] * 1.5
    )


@pytest.mark.parametrize("heads", [2, 6])
def test_attention_equals_torch(heads: int) -> None:
    q, keys, values = noise(4, heads, 16), noise(9, 2, 16, seed=1), noise(9, 2, 16, seed=2)
    positions = torch.tensor([5, 6, 7, 8])
    seen = torch.arange(9) <= positions[:, None]
    for window in (0, 3):
        if window:
            seen = seen & (torch.arange(9) > positions[:, None] - window)
        expected = functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q, keys, values)), attn_mask=seen, scale=0.3, enable_gqa=True
        )[0].transpose(0, 1)
        torch.testing.assert_close(
            attention.reference(q, keys, values, positions, 0.3, window), expected, **FLOAT
        )


def test_softcap_bounds_scores_and_logits() -> None:
    x = noise(2, 8) * 100
    logits = head.reference(x, torch.ones(8), 1e-5, noise(5, 8, seed=1) * 100, softcap=2.0)
    assert logits.abs().max() <= 2
    values = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    keys = torch.tensor([-1000.0, 1000.0]).view(2, 1, 1)
    capped = attention.reference(torch.ones(1, 1, 1), keys, values, torch.tensor([1]), 1.0, softcap=0.5)
    torch.testing.assert_close(capped.item(), 1 / (1 + np.exp(-1.0)), **FLOAT)


@given(matrices, st.sampled_from([0, quantize.GROUP]))
def test_rows_round_within_half_a_step(x: np.ndarray, group: int) -> None:
    q, scale = quantize.quantize_rows(torch.from_numpy(x), group)
    size = group or x.shape[1]
    back = q.float() * scale.repeat_interleave(size, dim=1)
    step = scale.repeat_interleave(size, dim=1).numpy()
    assert (np.abs(back.numpy() - x) <= step * 0.5001 + 1e-30).all()
    assert scale.shape == (x.shape[0], x.shape[1] // size)


@given(matrices, st.sampled_from([2, 4, 8]))
def test_groups_round_within_half_a_step(weight: np.ndarray, bits: int) -> None:
    q, scale, minimum = quantize.quantize_groups(torch.from_numpy(weight), bits)
    assert int(q.max()) < 2**bits
    step = scale.repeat_interleave(quantize.GROUP, dim=1).numpy()
    back = quantize.dequantize_groups(q, scale, minimum).numpy()
    # Beside half a step, the minimum and the step are float32 themselves.
    assert (np.abs(back - weight) <= step * 0.5001 + np.abs(weight).max() * 2**-20).all()


@given(arrays.arrays(np.uint8, (3, 64), elements=st.integers(0, 15)))
def test_pairs_come_back(q: np.ndarray) -> None:
    pairs = quantize.pack_pairs(torch.from_numpy(q))
    assert pairs.shape == (3, 32)
    assert (quantize.unpack_pairs(pairs).numpy() == q).all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_blocks_hold_what_gguf_says(kind: str) -> None:
    weight, qtype = noise(6, 96).numpy(), gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(weight, qtype)
    matrix = quantize.matrix_from_blocks(packed.reshape(-1), kind, 6, 96)
    expected = gguf.quants.dequantize(packed, qtype)
    # Q4_0 is d (q - 8) there and d q - 8 d here: with a float16 d every step of both is exact in float32.
    np.testing.assert_array_equal(matrix.rows(slice(None)).numpy(), expected)


def test_rounded_products_are_near_the_float_product() -> None:
    x, weight = noise(4, 96), noise(7, 96, seed=1)
    exact = x @ weight.T
    q, scale = quantize.quantize_rows(weight)
    got = quantize.linear_int8(x, q, scale.squeeze(-1))
    # Each factor errs by at most half a step of its row; 96 such errors of either sign add like their root.
    step = (x.abs().amax(-1, keepdim=True) / 127 * weight.abs().amax(-1)) * 96**0.5
    assert ((got - exact).abs() <= 2 * step).all()

    groups = quantize.quantize_groups(weight)
    rounded = GroupMatrix(quantize.pack_pairs(groups[0]), *groups[1:]).rows(slice(None))
    x_q, x_scale = quantize.quantize_rows(x, quantize.GROUP)
    x_rounded = x_q.float() * x_scale.repeat_interleave(quantize.GROUP, dim=1)
    torch.testing.assert_close(quantize.linear_groups(x, *groups), x_rounded @ rounded.T, **FLOAT)
