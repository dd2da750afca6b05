import dataclasses
import math

import pytest
import torch

from cellplm.corpus.batch import TissueBatch
from cellplm.model.config import ModelConfig
from cellplm.model.position import PositionEncoder, sinusoid
from tests.model.make import SMALL, make_batch, make_coords, make_counts, make_model


def encode(batch: TissueBatch, config: ModelConfig = SMALL) -> torch.Tensor:
    inputs = make_model(double=True).prepare(batch)
    out: torch.Tensor = PositionEncoder(config).double()(inputs)
    return out


def test_the_sinusoid_is_the_stated_one() -> None:
    u = torch.tensor([[0.0, 3.5], [99.9, 41.0]], dtype=torch.float64)
    encoded = sinusoid(u, 16)
    for cell in range(2):
        for axis in range(2):
            for i in range(4):
                angle = float(u[cell, axis]) * 10000 ** (-2 * i / 8)
                sine, cosine = encoded[cell, 8 * axis + i], encoded[cell, 8 * axis + 4 + i]
                assert float(sine) == pytest.approx(math.sin(angle))
                assert float(cosine) == pytest.approx(math.cos(angle))


@pytest.mark.parametrize("width", [64, 128, 256, 768, 1024])
def test_cells_one_percent_of_the_fov_apart_differ_by_a_tenth_of_the_norm(width: int) -> None:
    u = 100 * torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = 2 * math.pi * torch.linspace(0, 1, 200, dtype=torch.float64)
    step = torch.stack((angle.cos(), angle.sin()), 1)
    change = (sinusoid(u + step, width) - sinusoid(u, width)).norm(dim=1)
    assert (change / sinusoid(u, width).norm(dim=1)).min() >= 0.1


def test_a_fov_spans_100_units_on_its_longer_side() -> None:
    counts, coords = make_counts(4, 3), make_coords(4)
    encoded = encode(make_batch([counts], coords=[coords], extent_um=250.0))
    expected = sinusoid(torch.from_numpy(coords).double() * 100 / 250, SMALL.width)
    torch.testing.assert_close(encoded, expected)


def test_in_micrometres_the_extent_has_no_say() -> None:
    config = dataclasses.replace(SMALL, position="um")
    coords = make_coords(4)
    batch = make_batch([make_counts(4, 3)], coords=[coords], extent_um=250.0)
    expected = sinusoid(torch.from_numpy(coords).double() / 10, SMALL.width)
    torch.testing.assert_close(encode(batch, config), expected)


def test_a_fov_without_extent_stands_at_its_origin() -> None:
    coords = make_coords(2) * 0
    encoded = encode(make_batch([make_counts(2, 3)], coords=[coords], extent_um=0.0))
    expected = sinusoid(torch.zeros(2, 2, dtype=torch.float64), SMALL.width)
    torch.testing.assert_close(encoded, expected)


def test_scrna_cells_share_one_learned_vector() -> None:
    assert encode(make_batch([make_counts(4, 3)])).shape == (SMALL.width,)
