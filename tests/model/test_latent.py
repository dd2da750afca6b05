import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from cellplm.model.config import ModelConfig
from cellplm.model.draws import seeded
from cellplm.model.latent import MixtureLatent, PlainLatent, soft_floor
from tests.model.make import SMALL


def make_latent(config: ModelConfig = SMALL) -> MixtureLatent:
    with seeded(0):
        latent = MixtureLatent(config).double()
        torch.nn.init.normal_(latent.prior_logits_L)
        torch.nn.init.normal_(latent.prior_log_sd_LZ, std=0.3)
    return latent


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_the_kl_term_is_log_q_minus_log_p_at_the_sample() -> None:
    latent = make_latent()
    h = torch.randn(7, SMALL.width, dtype=torch.float64)
    out = latent(h, generator())
    noise = torch.randn(7, SMALL.n_latent, generator=generator(), dtype=torch.float64)
    sd = (out.z_CZ - out.mean_CZ) / noise
    q = Independent(Normal(out.mean_CZ, sd), 1)
    prior = MixtureSameFamily(
        Categorical(logits=latent.prior_logits_L),
        Independent(Normal(latent.prior_mean_LZ, latent.prior_log_sd_LZ.exp()), 1),
    )
    log_q, log_p = (p.log_prob(out.z_CZ) for p in (q, prior))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(out.kl_C, log_q - log_p)
    torch.testing.assert_close(out.mean_CZ, latent.mean(h))


def test_responsibilities_follow_from_bayes() -> None:
    latent, z = make_latent(), torch.randn(5, SMALL.n_latent, dtype=torch.float64)
    for i in range(5):
        joint = []
        for weight, mean, log_sd in zip(
            latent.prior_logits_L.softmax(0),
            latent.prior_mean_LZ,
            latent.prior_log_sd_LZ,
            strict=True,
        ):
            sd = log_sd.exp()
            density = torch.exp(-((z[i] - mean) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi))
            joint.append(weight * density.prod())
        expected = torch.stack(joint) / sum(joint)
        torch.testing.assert_close(latent.responsibilities(z)[i], expected)


def test_the_mean_estimate_approaches_the_kl_of_one_component() -> None:
    latent = MixtureLatent(ModelConfig(width=8, n_heads=1, n_latent=3, n_components=1)).double()
    latent.requires_grad_(False)
    h = torch.randn(1, 8, dtype=torch.float64).expand(40_000, -1)
    out = latent(h, generator())
    sd = torch.nn.functional.softplus(latent.spread(h[0])) + 1e-3
    posterior = Normal(latent.mean(h[0]), sd)
    exact = torch.distributions.kl_divergence(posterior, Normal(latent.prior_mean_LZ[0], 1.0)).sum()
    assert out.kl_C is not None
    assert float(out.kl_C.mean()) == pytest.approx(float(exact), abs=0.03)


@pytest.mark.parametrize("n_latent", [32, 128, 512])
def test_every_component_is_the_likeliest_for_some_z_at_the_start(n_latent: int) -> None:
    with seeded(0):
        latent = MixtureLatent(ModelConfig(n_latent=n_latent))
    z = torch.randn(2000, n_latent, generator=generator())
    shares = latent.responsibilities(z).mean(0)
    assert shares.min() > 0.2 / 16
    assert shares.max() < 5 / 16
    assert set(latent.responsibilities(z).argmax(1).tolist()) == set(range(16))


def test_in_eval_mode_z_is_the_mean() -> None:
    out = make_latent().eval()(torch.randn(4, SMALL.width, dtype=torch.float64), generator())
    assert torch.equal(out.z_CZ, out.mean_CZ)
    assert out.kl_C is None


def test_without_a_prior_nothing_is_drawn() -> None:
    out = PlainLatent(SMALL)(torch.randn(4, SMALL.width), generator())
    assert torch.equal(out.z_CZ, out.mean_CZ)
    assert out.kl_C is None


def test_free_bits_flatten_the_term_and_never_zero_its_slope() -> None:
    kl = torch.tensor([-3.0, 0.0, 4.0, 8.0, 100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(soft_floor(kl, 4.0).sum(), kl)
    floored = soft_floor(kl.detach(), 4.0)
    assert (slope > 0.02).all()
    assert float(slope[1]) == pytest.approx(1 / (1 + math.exp(2)))
    assert float(floored[4]) == pytest.approx(100.0)
    assert (floored >= 4.0).all()
    assert torch.equal(soft_floor(kl, 0.0), kl)
