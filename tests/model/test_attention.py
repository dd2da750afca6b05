import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

from cellplm.errors import ConfigError
from cellplm.model.attention import Attention, draw_projection, performer_attention
from cellplm.model.config import ModelConfig
from cellplm.model.segments import blocks_of
from tests.model.make import SMALL

KINDS = ("performer", "softmax")


def attention(kind: str, **changes: int) -> Attention:
    config = dataclasses.replace(SMALL, attention=kind, **changes)  # type: ignore[arg-type]
    return Attention(config, layer=0).double()


def cells(n: int, width: int = SMALL.width) -> Tensor:
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def performer_reference(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """One head of one window, cell by cell, as in Choromanski et al. with performer's epsilon."""
    width, eps = q.shape[1], 1e-4
    q, k = q / width**0.25, k / width**0.25
    top_k = max(float(w @ key) for w, key in itertools.product(projection, k))
    phi_k = [torch.exp(projection @ key - key @ key / 2 - top_k) + eps for key in k]
    out = []
    for query in q:
        scores = projection @ query
        phi_q = torch.exp(scores - query @ query / 2 - scores.max()) + eps
        weights = torch.stack([phi_q @ phi for phi in phi_k])
        out.append((weights[:, None] * v).sum(0) / weights.sum())
    return torch.stack(out)


def softmax_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.T) / math.sqrt(q.shape[1])).softmax(1) @ v


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segments", [[0, 7], [0, 1, 4, 9, 10], [0, 5, 5, 8]])
def test_each_window_is_attended_as_if_alone(kind: str, segments: list[int]) -> None:
    layer, x = attention(kind), cells(segments[-1])
    qkv = layer.qkv(x).detach().unflatten(1, (3, 2, 8))
    expected = torch.zeros(len(x), 2, 8, dtype=torch.float64)
    for start, stop in itertools.pairwise(segments):
        for head in range(2):
            if start == stop:
                continue
            q, k, v = qkv[start:stop, :, head].unbind(1)
            expected[start:stop, head] = (
                performer_reference(q, k, v, layer.projection_FE)
                if kind == "performer"
                else softmax_reference(q, k, v)
            )
    found = layer(x, blocks_of(segments, len(x)))
    torch.testing.assert_close(found, layer.out(expected.flatten(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_beyond_the_windows_yield_zeros_and_change_nothing(kind: str) -> None:
    layer, x = attention(kind), cells(12)
    qkv = layer.qkv(x)
    padded = layer.mix(qkv, blocks_of([0, 3, 9], 12))
    torch.testing.assert_close(padded[:9], layer.mix(qkv[:9], blocks_of([0, 3, 9], 9)))
    assert (padded[9:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_inside_blocks_gets_no_gradient(kind: str) -> None:
    layer = attention(kind)
    x = cells(14).requires_grad_()
    together = layer(x, blocks_of([0, 8, 14], 14))  # 6 of 8 share one padded block.
    (grad,) = torch.autograd.grad(together.square().sum(), x)
    alone = layer(x, blocks_of([0, 8], 14))[:8], layer(x[8:], blocks_of([0, 6], 6))
    (expected,) = torch.autograd.grad(torch.cat(alone).square().sum(), x)
    torch.testing.assert_close(grad, expected)


def test_windows_share_blocks_only_with_similar_ones() -> None:
    lengths = [100, 3, 90, 0, 4, 1]
    segments = [0, *itertools.accumulate(lengths)]
    blocks = blocks_of(segments, segments[-1])
    assert [tuple(rows.shape) for rows in blocks.rows] == [(2, 100), (2, 4), (1, 1)]
    assert blocks.real[2] is None
    places = torch.cat([rows.flatten() for rows in blocks.rows])
    assert torch.equal(places[blocks.order], torch.arange(segments[-1]))


def test_a_block_holds_a_bounded_number_of_windows() -> None:
    blocks = blocks_of(list(range(301)), 300)
    assert [len(rows) for rows in blocks.rows] == [128, 128, 44]


def test_the_performer_approaches_softmax_with_more_features() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 60, 64, generator=generator)
    q, k = q * 0.35, k * 0.35
    exact = torch.stack([softmax_reference(q[0, h], k[0, h], v[0, h]) for h in range(2)])
    errors = []
    for n_features in (266, 8 * 266):
        found = performer_attention(q, k, v, draw_projection(n_features, 64, seed=3), None)[0]
        errors.append(float((found - exact).norm() / exact.norm()))
    # Measured: 0.10 at the default 266 features, 0.04 at eight times as many. (The error grows
    # with the norms of queries and keys: 0.34 and 0.15 when they are 1.4 times as long.)
    assert errors[0] < 0.15
    assert errors[1] < 0.6 * errors[0]


def test_the_projection_depends_on_seed_and_layer_and_not_on_the_global_generator() -> None:
    before = torch.get_rng_state()
    config = ModelConfig(width=16, n_heads=2)
    first = draw_projection(16, 8, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(first, draw_projection(16, 8, seed=5))
    layers = [Attention(config, layer).projection_FE for layer in (0, 0, 1)]
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])


def test_float16_is_refused_and_bfloat16_is_finite() -> None:
    layer = attention("performer").float()
    x, blocks = 30 * cells(20).float(), blocks_of([0, 20], 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, blocks).isfinite().all()
    with pytest.raises(ConfigError, match="float16"):
        layer.mix(layer.qkv(x).half(), blocks)
