"""examples/stable_diffusion.py and examples/exported_vae.py on tiny random pipelines.

The known answers are the pipelines' own pictures, by diffusers' own VAE, of the same seed.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")
pytest.importorskip("transformers", reason="transformers is an optional extra")

import tiny_pipelines as tiny  # noqa: E402

import cvvae_jax  # noqa: E402
from cvvae_jax.cli.main import main as command  # noqa: E402
from cvvae_jax.codec.pipelines import require_scale, to_pipeline  # noqa: E402
from cvvae_jax.errors import UserError  # noqa: E402
from examples import exported_vae, stable_diffusion  # noqa: E402

# As in tests/convert/test_diffusers.py: sums of float32 products over some forty layers.
TOLERANCE = 1e-4
OPTIONS = {"num_inference_steps": 2, "height": 16, "width": 24}
PIPELINES = {
    "SD": (tiny.stable_diffusion, {"scaling_factor": 0.18215}),
    "SDXL": (tiny.stable_diffusion_xl, {"scaling_factor": 0.13025}),
    "Playground 2.5": (
        tiny.stable_diffusion_xl,
        {
            "scaling_factor": 0.5,
            "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
            "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
        },
    ),
    "SD3": (
        tiny.stable_diffusion_3,
        {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
        | tiny.WITHOUT_QUANT,
    ),
}


def own_pictures(pipe, **options) -> np.ndarray:
    """The pipeline's pictures (b, h, w, 3) in [0, 1], decoded by its own VAE."""
    generator = torch.Generator().manual_seed(7)
    return pipe("a fox", generator=generator, output_type="np", **OPTIONS, **options).images


def assert_same_pictures(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Ours in [-1, 1], not clipped, and theirs in [0, 1]."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05 and theirs.min() < 0.5 < theirs.max()
    np.testing.assert_allclose(np.clip(ours / 2 + 0.5, 0, 1), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("name", PIPELINES)
def test_pictures_are_those_of_the_pipeline(tmp_path, name):
    make, settings = PIPELINES[name]
    pipe = make(tmp_path / "text", tiny.image_vae(**settings))
    ours = tiny.converted(pipe.vae, tmp_path / "vae")
    require_scale(pipe.vae.config, vae=ours)
    latents = stable_diffusion.generate(pipe, "a fox", seed=7, **OPTIONS)
    floats = stable_diffusion.decode(latents, ours, pixels="float32")
    assert_same_pictures(floats, own_pictures(pipe))
    if name == "SD":
        pictures = stable_diffusion.decode(latents.to(torch.bfloat16).requires_grad_(), ours)
        assert pictures.dtype == np.uint8 and pictures.shape == (1, 16, 24, 3)
        # bfloat16 has 8 bits: a step of 2^-8 in latents is some steps of 8-bit pixels.
        wanted = np.clip(floats * 127.5 + 127.5, 0, 255)
        assert np.abs(pictures - wanted).mean() < 3


def test_video_vae_decodes_images_and_gives_latents_of_them(tmp_path):
    """An inflated video VAE is its image VAE on images; the pipeline's latents come from either."""
    theirs = tiny.image_vae(**tiny.WITHOUT_QUANT)
    pipe = tiny.stable_diffusion(tmp_path / "text", theirs)
    video_vae = tiny.video_vae(tiny.converted(theirs, tmp_path / "vae"))
    latents = stable_diffusion.generate(pipe, "a fox", seed=7, num_images_per_prompt=2, **OPTIONS)
    pictures = stable_diffusion.decode(latents, video_vae, pixels="float32")
    assert_same_pictures(pictures, own_pictures(pipe, num_images_per_prompt=2))
    encoded = cvvae_jax.Codec(video_vae).encode(np.clip(pictures[:, None], -1, 1))
    ours = to_pipeline(encoded, "b z y x", vae=video_vae)
    pixels = torch.from_numpy(np.moveaxis(np.clip(pictures, -1, 1), -1, 1).copy())
    with torch.no_grad():
        own = theirs.encode(pixels).latent_dist.mode() * theirs.config.scaling_factor
    np.testing.assert_allclose(ours, own, atol=TOLERANCE * float(own.abs().max()))


def test_wrong_spaces_are_one_sentence(tmp_path):
    sd = tiny.converted(tiny.image_vae(), tmp_path / "sd")
    with pytest.raises(UserError, match=r"^latents \(1, 16, 4, 6\) are not .* 4 channels \(z\)"):
        stable_diffusion.decode(torch.zeros(1, 16, 4, 6), sd)
    xl = tiny.image_vae(scaling_factor=0.13025)
    with pytest.raises(UserError, match=r"0\.13025, this VAE as .* 0\.18215: they are not of one"):
        require_scale(xl.config, vae=sd)


def test_exported_image_vae_is_the_vae_of_a_pipeline(tmp_path):
    """What the pipeline shows with our VAE in PyTorch is what our VAE makes of its latents."""
    ours = tiny.converted(tiny.image_vae(), tmp_path / "source")
    cvvae_jax.save(ours, tmp_path / "mine")
    assert command(["convert", str(tmp_path / "mine"), str(tmp_path / "mine-torch")]) == 0
    tiny.stable_diffusion(tmp_path / "text", tiny.image_vae()).save_pretrained(tmp_path / "pipe")
    pipe = tiny.quiet(
        diffusers.StableDiffusionPipeline.from_pretrained(
            tmp_path / "pipe", vae=exported_vae.open_vae(tmp_path / "mine-torch")
        )
    )
    latents = stable_diffusion.generate(pipe, "a fox", seed=7, **OPTIONS)
    floats = stable_diffusion.decode(latents, ours, pixels="float32")
    assert_same_pictures(floats, own_pictures(pipe))


def test_exported_video_vae_is_no_vae_of_a_pipeline(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "CVVAEModel"}')
    with pytest.raises(ValueError, match="holds a CVVAEModel, which is no class of diffusers; its"):
        exported_vae.open_vae(tmp_path)
