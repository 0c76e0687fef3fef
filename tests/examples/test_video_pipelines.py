"""examples/stable_video_diffusion.py and examples/text_to_video.py on tiny random pipelines.

The known answers are diffusers' own frames of the same latents: an inflated video VAE in image mode
computes what its image VAE does, and in video mode as well where nothing moves.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
pytest.importorskip("transformers", reason="transformers is an optional extra")

import tiny_pipelines as tiny  # noqa: E402
from PIL import Image  # noqa: E402

import cvvae_jax  # noqa: E402
from cvvae_jax.codec.pipelines import from_pipeline  # noqa: E402
from cvvae_jax.errors import UserError  # noqa: E402
from examples import stable_video_diffusion, text_to_video  # noqa: E402

# As in tests/convert/test_diffusers.py: sums of float32 products over some forty layers.
TOLERANCE = 1e-4
FRAMES = 3
OPTIONS = {"num_frames": FRAMES, "num_inference_steps": 2}
SIZE = {"height": 16, "width": 24}
TEXT_TO_VIDEO = {"AnimateDiff": tiny.animate_diff, "ModelScope": tiny.text_to_video}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """diffusers' image VAE, the same in JAX, and the video VAE that is inflated from it."""
    torch.manual_seed(0)
    theirs = tiny.image_vae(**tiny.WITHOUT_QUANT)
    image_vae = tiny.converted(theirs, tmp_path_factory.mktemp("models") / "vae")
    return theirs, image_vae, tiny.video_vae(image_vae)


@torch.no_grad()
def decoded_by_diffusers(vae, latents) -> np.ndarray:
    """The frames (n, h, w, 3) of scaled latents (n, z, y, x), each decoded alone."""
    frames = vae.decode(latents / vae.config.scaling_factor).sample
    return np.moveaxis(frames.numpy(), 1, -1)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * np.abs(theirs).max())


def test_stable_video_diffusion_gives_key_frames_and_what_is_between(models):
    theirs, image_vae, video_vae = models
    pipe = tiny.stable_video_diffusion(tiny.svd_vae())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    latents = stable_video_diffusion.generate(pipe, picture, seed=7, **OPTIONS)
    assert latents.shape == (1, FRAMES, 4, 4, 6)
    video, key_frames = stable_video_diffusion.decode(
        latents, video_vae, image_vae, pixels="float32"
    )
    assert video.shape == (1, 4 * FRAMES - 3, 16, 24, 3)
    assert_close(key_frames[0], decoded_by_diffusers(theirs, latents[0]))
    assert not np.allclose(key_frames[0, 0], key_frames[0, 1], atol=0.01)

    still = latents[:, :1].expand(-1, FRAMES, -1, -1, -1)
    video, key_frames = stable_video_diffusion.decode(still, video_vae, image_vae)
    [frame] = decoded_by_diffusers(theirs, latents[0, :1])
    pixels = np.clip(frame * 127.5 + 127.5, 0, 255)
    for frames in (video, key_frames):
        assert frames.dtype == np.uint8
        # Half a step of 8 bits for rounding, and the tolerance in units of it.
        assert np.abs(frames - pixels).max() <= 0.5 + 127.5 * TOLERANCE * np.abs(frame).max()


def test_stable_video_diffusions_own_vae_gives_its_own_frames(tmp_path):
    pipe = tiny.stable_video_diffusion(tiny.svd_vae())
    ours = tiny.converted(pipe.vae, tmp_path / "vae")
    picture = Image.new("RGB", (24, 16), (200, 80, 30))
    latents = stable_video_diffusion.generate(pipe, picture, seed=7, **OPTIONS)
    generator = torch.Generator().manual_seed(7)
    own = pipe(picture, generator=generator, output_type="np", **OPTIONS, **SIZE).frames
    given = from_pipeline(latents, "b n z y x", vae=ours, pixels="float32")
    video = cvvae_jax.Codec(ours).decode(given)
    assert video.shape == np.shape(own) == (1, FRAMES, 16, 24, 3)
    np.testing.assert_allclose(np.clip(video / 2 + 0.5, 0, 1), own, atol=TOLERANCE)


@pytest.mark.parametrize("name", TEXT_TO_VIDEO)
def test_text_to_video_gives_key_frames_and_what_is_between(tmp_path, name, models):
    theirs, _, video_vae = models
    pipe = TEXT_TO_VIDEO[name](tmp_path / "text", theirs)
    latents = text_to_video.generate(pipe, "a fox", seed=7, **OPTIONS, **SIZE)
    assert latents.shape == (1, 4, FRAMES, 4, 6)
    video = text_to_video.decode(latents, video_vae)
    assert video.shape == (1, 4 * FRAMES - 3, 16, 24, 3) and video.dtype == np.uint8
    generator = torch.Generator().manual_seed(7)
    own = pipe("a fox", generator=generator, output_type="np", **OPTIONS, **SIZE).frames
    key_frames = text_to_video.decode(latents, video_vae, mode="image", pixels="float32")
    assert own.shape == key_frames.shape == (1, FRAMES, 16, 24, 3)
    np.testing.assert_allclose(np.clip(key_frames / 2 + 0.5, 0, 1), own, atol=TOLERANCE)


def test_latents_of_the_other_layout_are_one_sentence(models):
    *_, video_vae = models
    with pytest.raises(UserError, match="they fit 'b n z y x'") as raised:
        text_to_video.decode(torch.zeros(1, 3, 4, 4, 6), video_vae)
    assert str(raised.value).startswith("latents (1, 3, 4, 4, 6) are not 'b z n y x'")
