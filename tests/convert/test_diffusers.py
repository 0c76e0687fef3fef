"""Weights go to and fro between diffusers' own classes and ours, and compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cvvae_jax
from cvvae_jax.cli.main import main
from cvvae_jax.config import ImageVAEConfig, SVDVAEConfig
from cvvae_jax.convert import export
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.models.svd_vae import SVDVAE

torch = pytest.importorskip("torch", reason="torch is an optional extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an optional extra")

# See tests/golden_files.py: sums of thousands of float32 products over some sixty layers.
TOLERANCE = 1e-4
LEVELS = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "layers_per_block": 2,
}
SETTINGS = {
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),
    *("latent_channels", "block_out_channels", "force_upcast"),
}
UP = {"up_block_types": ("UpDecoderBlock2D",) * 2}
IMAGE_VAES = {
    "sd": {"latent_channels": 4},
    "sdxl": {"latent_channels": 4, "scaling_factor": 0.13025},
    "sd3": {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    },
    "flux": {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "playground 2.5": {
        "latent_channels": 4,
        "scaling_factor": 0.5,
        "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    },
    "16 groups": {"norm_num_groups": 16},
}


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def randomize(model):
    """Norms and biases too, which start as ones and zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clip(frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.tanh(rng.standard_normal((1, frames, 24, 32, 3))).astype(np.float32)


def first(x: np.ndarray) -> torch.Tensor:
    """Frames of a video in PyTorch's axis order."""
    return torch.from_numpy(np.moveaxis(x[0], -1, 1).copy())


@torch.no_grad()
def their_outputs(model, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments and decoded modes of all frames, channels last."""
    posterior = model.encode(first(video)).latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
    temporal = isinstance(model, diffusers.AutoencoderKLTemporalDecoder)
    extra = {"num_frames": video.shape[1]} if temporal else {}
    decoded = model.decode(posterior.mode(), **extra).sample
    return tuple(np.moveaxis(x.numpy(), 1, -1)[None] for x in (moments, decoded))


@jax.jit
def our_outputs(vae, video):
    posterior = vae.encode(video)
    moments = jnp.concatenate([posterior.mean, posterior.logvar], axis=-1)
    return moments, vae.decode(posterior.mode())


def assert_equal(ours, theirs) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert np.abs(our - their).max() <= TOLERANCE * np.abs(their).max()


@pytest.mark.parametrize("name", IMAGE_VAES)
def test_autoencoderkl_goes_to_and_fro(tmp_path, name):
    settings = IMAGE_VAES[name]
    theirs = randomize(diffusers.AutoencoderKL(**LEVELS, **UP, **settings))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = cvvae_jax.load(tmp_path / "theirs")
    assert ours.config.scaling_factor == settings.get("scaling_factor", 0.18215)
    assert ours.config.shift_factor == settings.get("shift_factor", 0.0)
    check_both(tmp_path, theirs, ours, diffusers.AutoencoderKL, frames=2)


def test_autoencoderkltemporaldecoder_goes_to_and_fro(tmp_path):
    theirs = randomize(diffusers.AutoencoderKLTemporalDecoder(**LEVELS))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = cvvae_jax.load(tmp_path / "theirs")
    assert type(ours) is SVDVAE
    check_both(tmp_path, theirs, ours, diffusers.AutoencoderKLTemporalDecoder, frames=3)


def check_both(tmp_path, theirs, ours, official_class, *, frames: int) -> None:
    video = clip(frames)
    expected = their_outputs(theirs, video)
    assert_equal(our_outputs(ours, video), expected)
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    back = official_class.from_pretrained(tmp_path / "back")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    for setting in SETTINGS & theirs.config.keys():
        assert list(np.atleast_1d(back.config[setting])) == list(
            np.atleast_1d(theirs.config[setting])
        )


@pytest.mark.parametrize(
    ("model_class", "config", "official_class"),
    [
        (ImageVAE, ImageVAEConfig(block_channels=(32, 64)), "AutoencoderKL"),
        (SVDVAE, SVDVAEConfig(block_channels=(32, 64)), "AutoencoderKLTemporalDecoder"),
    ],
)
def test_models_made_here_are_loaded_by_diffusers(tmp_path, model_class, config, official_class):
    ours, video = model_class(config, rngs=nnx.Rngs(0)), clip(2)
    export.write_official(ours, tmp_path / "export")
    official = getattr(diffusers, official_class)
    theirs, info = official.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not any(info.values()), info
    assert_equal(our_outputs(ours, video), their_outputs(theirs.eval(), video))


@pytest.mark.parametrize("files", ["one", "sharded", "bin", "fp16"])
def test_every_way_that_diffusers_saves_is_read(tmp_path, files):
    theirs = randomize(diffusers.AutoencoderKL(**LEVELS, **UP))
    options = {
        "one": {},
        "sharded": {"max_shard_size": "1MB"},
        "bin": {"safe_serialization": False},
        "fp16": {"variant": "fp16"},
    }[files]
    dtype = torch.float16 if files == "fp16" else torch.float32
    theirs.to(dtype).save_pretrained(tmp_path / "pipeline/vae", **options)
    count = len(list((tmp_path / "pipeline/vae").iterdir()))
    assert (count > 3) == (files == "sharded")
    assert main(["convert", str(tmp_path / "pipeline"), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back")]) == 0
    back = diffusers.AutoencoderKL.from_pretrained(tmp_path / "back", torch_dtype=dtype)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
