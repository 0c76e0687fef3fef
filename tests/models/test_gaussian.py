import jax
import jax.numpy as jnp
import numpy as np

from cvvae_jax.models.gaussian import DiagonalGaussian


def random_posterior(seed: int, batch: int = 2) -> DiagonalGaussian:
    moments = jax.random.normal(jax.random.key(seed), (batch, 2, 3, 3, 8))
    return DiagonalGaussian.from_moments(moments)


def test_kl_equals_the_expected_log_ratio_of_samples():
    """200 000 samples of 36 entries: the estimate's standard error is about 5e-3 of nats that sum
    to 10."""
    p, q = random_posterior(0), random_posterior(1)

    def log_density(d, x):
        terms = (x - d.mean) ** 2 / jnp.exp(d.logvar) + d.logvar
        return -0.5 * terms.sum(axis=(1, 2, 3, 4))

    def ratio(key):
        x = p.sample(key)
        return log_density(p, x) - log_density(q, x)

    estimate = jax.lax.map(ratio, jax.random.split(jax.random.key(2), 50_000), batch_size=1000)
    np.testing.assert_allclose(estimate.mean(axis=0), p.kl(q), rtol=1e-2)


def test_kl_to_standard_normal_is_kl_to_a_gaussian_of_zeros():
    p = random_posterior(0)
    zeros = jnp.zeros_like(p.mean)
    np.testing.assert_allclose(p.kl(), p.kl(DiagonalGaussian(zeros, zeros)), rtol=1e-5)
    np.testing.assert_allclose(p.kl(p), 0.0, atol=1e-5)


def test_kl_counts_every_latent_axis():
    zeros = jnp.zeros((1, 2, 3, 5, 4))
    kl = DiagonalGaussian(zeros + 1.0, zeros).kl()
    np.testing.assert_allclose(kl, 0.5 * 2 * 3 * 5 * 4)


def test_sample_of_a_record_depends_on_its_key_alone():
    p = random_posterior(0, batch=3)
    keys = jax.random.split(jax.random.key(0), 3)
    reversed_p = jax.tree.map(lambda x: x[::-1], p)
    np.testing.assert_array_equal(p.sample(keys), reversed_p.sample(keys[::-1])[::-1])


def test_log_variance_is_clamped():
    moments = jnp.full((1, 1, 1, 1, 2), 1e3)
    assert DiagonalGaussian.from_moments(moments).logvar.max() == 20
    assert DiagonalGaussian.from_moments(-moments).logvar.min() == -30
