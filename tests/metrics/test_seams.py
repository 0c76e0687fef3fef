import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax.metrics import seams
from cvvae_jax.metrics.time import difference_mse

seam_ratio = jax.jit(seams.seam_ratio, static_argnames=("row_borders", "column_borders"))
chunk_seam_ratio = seams.chunk_seam_ratio


def pair():
    """Reconstruction and video, of 9 x 7 pixels."""
    rng = np.random.default_rng(0)
    video, noise = rng.uniform(-0.5, 0.5, (2, 2, 4, 9, 7, 3)).astype(np.float32)
    return jnp.asarray(video + 0.2 * noise), jnp.asarray(video)


def test_ratio_is_of_mean_squared_steps_of_the_error():
    recon, video = pair()
    errors = np.asarray(recon, np.float64) - np.asarray(video)
    down = np.square(np.diff(errors, axis=2)).mean((1, 3, 4))
    across = np.square(np.diff(errors, axis=3)).mean((1, 2, 4))
    elsewhere = np.delete(down, [2, 5], axis=1).mean(1), np.delete(across, 3, axis=1).mean(1)
    expected = (down[:, [2, 5]].sum(1) + across[:, 3]) / (2 * elsewhere[0] + elsewhere[1])
    found = seam_ratio(recon, video, row_borders=(3, 6), column_borders=(4,))
    # What is added to both sides is less than a millionth of these steps.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    steps = np.square(np.diff(errors, axis=1)).mean((2, 3, 4))
    found = chunk_seam_ratio(difference_mse(recon, video), frames=(3,))
    np.testing.assert_allclose(found, steps[:, 2] / steps[:, :2].mean(1), rtol=1e-5)


def test_only_the_border_named_shows_a_seam():
    recon, video = pair()
    stepped = recon.at[:, :, 5:].add(0.3)
    assert (seam_ratio(stepped, video, row_borders=(5,)) > 5).all()
    assert (seam_ratio(stepped, video, row_borders=(3, 4, 6)) < 2).all()
    assert (seam_ratio(stepped, video, column_borders=(4,)) < 2).all()


def test_no_borders_or_nothing_else_is_no_ratio():
    recon, video = pair()
    assert jnp.isnan(seam_ratio(recon, video)).all()
    steps = difference_mse(recon, video)
    for frames in ((), (1, 2, 3)):
        assert jnp.isnan(chunk_seam_ratio(steps, frames=frames)).all()
    assert jnp.isnan(chunk_seam_ratio(steps[:, :0], frames=())).all()


def test_seam_beside_no_error_at_all_stays_a_number():
    video = np.zeros((2, 4, 9, 7, 3), np.float32)
    stepped = video.copy()
    stepped[:, :, :5] += 1
    assert jnp.isfinite(
        seam_ratio(jnp.asarray(stepped), jnp.asarray(video), row_borders=(5,))
    ).all()


@pytest.mark.parametrize("border", [0, 9])
def test_borders_outside_of_the_frame_are_refused(border):
    with pytest.raises(ValueError, match=f"No border is before row {border} of 9"):
        seam_ratio(*pair(), row_borders=(border,))
