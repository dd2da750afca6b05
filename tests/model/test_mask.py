import pytest
import torch

from cellplm.model.config import ModelConfig
from cellplm.model.draws import generator_of, seed_of, seeded
from cellplm.model.mask import Mask, draw_mask

CONFIG = ModelConfig(mask_cells=0.75, mask_genes=0.25)


def test_the_shares_are_those_of_the_config() -> None:
    mask = draw_mask(200, 5000, CONFIG, (0, 0, 0))
    assert mask.cells_M.numel() == 150
    assert len(set(mask.cells_M.tolist())) == 150
    # Five standard errors of a binomial with 750,000 draws.
    assert mask.n_hidden() / mask.hidden_MG.numel() == pytest.approx(0.25, abs=0.0025)
    assert mask.hidden_MG.sum(1).float().std() == pytest.approx(
        (5000 * 0.25 * 0.75) ** 0.5, rel=0.3
    )


def test_a_mask_depends_on_its_key_alone() -> None:
    first = draw_mask(20, 30, CONFIG, (1, 2, 3))
    torch.rand(5)
    again = draw_mask(20, 30, CONFIG, (1, 2, 3))
    assert torch.equal(first.cells_M, again.cells_M)
    assert torch.equal(first.hidden_MG, again.hidden_MG)
    for key in [(0, 2, 3), (1, 0, 3), (1, 2, 0)]:
        assert not torch.equal(first.hidden_MG, draw_mask(20, 30, CONFIG, key).hidden_MG)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_mask(20, 30, CONFIG, (1, 2, 3))
    with seeded(5):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_keys_and_purposes_have_fixed_seeds() -> None:
    # Golden: a changed hash would silently change every resumed run.
    assert seed_of((0, 1, 2), "mask") == 1536670698503834986
    assert seed_of((0, 1, 2), "forward") != seed_of((0, 1, 2), "mask")
    assert seed_of((0, 12, 3), "mask") != seed_of((0, 1, 23), "mask")
    drawn = torch.rand(2, generator=generator_of((0, 1, 2), "mask"))
    assert torch.equal(drawn, torch.rand(2, generator=generator_of((0, 1, 2), "mask")))


def test_hides_says_what_the_dense_mask_says() -> None:
    mask = draw_mask(12, 9, CONFIG, (0, 0, 0))
    dense = torch.zeros(12, 9, dtype=torch.bool)
    dense[mask.cells_M] = mask.hidden_MG
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(9), indexing="ij")
    assert torch.equal(mask.hides(rows.flatten(), columns.flatten(), 12), dense.flatten())


def test_a_mask_of_no_cells_hides_nothing() -> None:
    mask = Mask(
        cells_M=torch.zeros(0, dtype=torch.int64), hidden_MG=torch.zeros(0, 4, dtype=torch.bool)
    )
    assert not mask.hides(torch.tensor([0, 1]), torch.tensor([3, 2]), 2).any()
    assert mask.n_hidden() == 0
