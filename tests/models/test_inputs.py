"""What the plain functions of a model take, and the sentence for what they don't."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from tiny_models import TINY

from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.errors import UserError
from cvvae_jax.models.autoencoder import VAE
from cvvae_jax.models.gaussian import DiagonalGaussian


class Seen(VAE):
    """A VAE whose networks give what they are given."""

    def __init__(self):
        self.config = VideoVAEConfig(**TINY)

    def _moments(self, video, *, remat):
        return video

    def _hidden(self, latents, *, remat):
        return latents


class Tensor:
    """An array of another library, as NumPy sees it."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array


class OnGPU:
    """A tensor that NumPy can't read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu()")


PIXELS = np.random.default_rng(0).integers(0, 256, (1, 5, 8, 16, 3), np.uint8)
FLOATS = (PIXELS.astype(np.float32) / 127.5 - 1).astype(np.float16).astype(np.float32)
FRAMES = list(PIXELS[0])
LATENTS = np.random.default_rng(0).standard_normal((1, 2, 1, 2, 4)).astype(np.float16)
POSTERIOR = DiagonalGaussian(jnp.asarray(LATENTS, jnp.float32), jnp.zeros(LATENTS.shape))

TAKEN = {
    "floats": (FLOATS, FLOATS),
    "floats of JAX": (jnp.asarray(FLOATS), FLOATS),
    "float64": (FLOATS.astype(np.float64), FLOATS),
    "float16": (FLOATS.astype(np.float16), FLOATS),
    "bytes in the other order": (FLOATS.astype(">f4"), FLOATS),
    "uint8": (PIXELS, PIXELS / np.float32(127.5) - 1),
    "uint8 of JAX": (jnp.asarray(PIXELS), PIXELS / np.float32(127.5) - 1),
    "frames": (FRAMES, PIXELS / np.float32(127.5) - 1),
    "frames of JAX": ([jnp.asarray(x) for x in FRAMES], PIXELS / np.float32(127.5) - 1),
    "frames in a tuple": (tuple(FLOATS[0]), FLOATS),
    "batch of videos": ([PIXELS[0]] * 2, PIXELS.repeat(2, 0) / np.float32(127.5) - 1),
    "batch of lists": ([FRAMES] * 2, PIXELS.repeat(2, 0) / np.float32(127.5) - 1),
    "lists of numbers": (FLOATS.tolist(), FLOATS),
    "images": ([Image.fromarray(x) for x in FRAMES], PIXELS / np.float32(127.5) - 1),
    "image": (Image.fromarray(FRAMES[0]), PIXELS[:, :1] / np.float32(127.5) - 1),
    "image with alpha": (
        Image.fromarray(FRAMES[0]).convert("RGBA"),
        PIXELS[:, :1] / np.float32(127.5) - 1,
    ),
    "gray image": (
        Image.fromarray(FRAMES[0][..., 0]),
        PIXELS[:, :1, ..., :1].repeat(3, -1) / np.float32(127.5) - 1,
    ),
    "another library": (Tensor(PIXELS), PIXELS / np.float32(127.5) - 1),
    "frames of another library": ([Tensor(x) for x in FLOATS[0]], FLOATS),
}
REFUSED = {
    "int64": (PIXELS.astype(np.int64), "must be uint8 .* or floats .*, not int64"),
    "int32 of JAX": (jnp.asarray(PIXELS, jnp.int32), "not int32"),
    "uint16": (PIXELS.astype(np.uint16), "not uint16"),
    "bool": (PIXELS > 9, "not bool"),
    "complex": (FLOATS.astype(np.complex64), "not complex64"),
    "words": (PIXELS.astype(str), "not <U3"),
    "objects": (PIXELS.astype(object), "not object"),
    "lists of integers": (PIXELS.tolist(), "not int64"),
    "path in words": ("clip.mp4", "not 'clip.mp4'; read_frames of cvvae_jax.video_io.video"),
    "path": (Path("clip.mp4"), "PosixPath; read_frames"),
    "nothing": (None, "not None"),
    "number": (0.5, "not 0.5"),
    "dict": ({"video": PIXELS}, "not dict"),
    "iterator": (iter(FRAMES), "not list_iterator"),
    "no batch": (
        PIXELS[0],
        r"\(5, 8, 16, 3\): give video\[None\] of a single video, video\[:, None\] of images",
    ),
    "one frame": (PIXELS[0, 0], r"give video\[None, None\] of a single frame"),
    "gray": (PIXELS[..., 0], r"not \(1, 5, 8, 16\)\."),
    "gray with a channel": (PIXELS[..., :1], r"not \(1, 5, 8, 16, 1\)\."),
    "alpha": (np.zeros((1, 5, 8, 16, 4)), r"not \(1, 5, 8, 16, 4\)\."),
    "PyTorch's video": (np.moveaxis(FLOATS, -1, 1), r"np.moveaxis\(video, 1, -1\)"),
    "PyTorch's frames": (np.moveaxis(FLOATS, -1, 2), r"np.moveaxis\(video, 2, -1\)"),
    "PyTorch's images": (np.moveaxis(FLOATS, -1, 2)[0], r"np.moveaxis\(video, 1, -1\)"),
    "six axes": ([PIXELS], r"not \(1, 1, 5, 8, 16, 3\)"),
    "empty list": ([], "video is an empty list"),
    "no frames": (FLOATS[:, :0], "not .*, which is empty"),
    "no videos": (FLOATS[:0], "not .*, which is empty"),
    "frames of two sizes": (
        [FRAMES[0], FRAMES[1][:, :8]],
        r"number 0 is uint8 \(8, 16, 3\), number 1 is uint8 \(8, 8, 3\)",
    ),
    "frames of two types": ([FRAMES[0], FLOATS[0, 1]], "number 1 is float32"),
    "paths in a list": (["a.png", "b.png"], r"video\[0\] must be an array, not 'a.png'"),
    "image of 16 bits": (
        Image.fromarray(PIXELS[0, 0, ..., 0].astype(np.uint16)),
        "Pillow image of mode I;16",
    ),
    "a GPU's": (OnGPU(), "OnGPU that NumPy cannot read: can't convert cuda:0 .* to numpy"),
    "frame count": (np.zeros((1, 4, 8, 16, 3)), r"1 \+ 4k frames, not 4: 1 or 5"),
    "size": (np.zeros((1, 5, 9, 16, 3)), "16 x 16"),
    "latents": (LATENTS, "not"),
    "posterior": (POSTERIOR, "DiagonalGaussian"),
}
LATENTS_TAKEN = {
    "float16": LATENTS,
    "float32": LATENTS.astype(np.float32),
    "float64": LATENTS.astype(np.float64),
    "bfloat16 of NumPy": LATENTS.astype(ml_dtypes.bfloat16),
    "JAX's": jnp.asarray(LATENTS, jnp.float32),
    "batch in a list": [LATENTS[0]],
    "lists of numbers": LATENTS.tolist(),
    "another library": Tensor(LATENTS),
}
LATENTS_REFUSED = {
    "posterior": (POSTERIOR, r"DiagonalGaussian; .* posterior.mode\(\) or posterior.sample\(key\)"),
    "integers": (LATENTS.astype(np.int32), "must be floats, not int32"),
    "uint8": (LATENTS.astype(np.uint8), "must be floats, not uint8"),
    "no batch": (LATENTS[0], r"give latents\[None\] of a single video"),
    "moments": (LATENTS.repeat(2, -1), r"\(batch, n, y, x, 4\), not \(1, 2, 1, 2, 8\)\."),
    "PyTorch's": (np.moveaxis(LATENTS, -1, 1), r"np.moveaxis\(latents, 1, -1\)"),
    "PyTorch's images": (np.moveaxis(LATENTS, -1, 2)[0], r"np.moveaxis\(latents, 1, -1\)"),
    "empty": (LATENTS[:, :0], "which is empty"),
    "path": ("clip.npz", "not 'clip.npz'; cvvae_jax.load_latents reads files"),
    "nothing": (None, "not None"),
    "video": (FLOATS, "not"),
}


def rows(table):
    return pytest.mark.parametrize(table_fields(table), table.values(), ids=table)


def table_fields(table) -> str:
    return "given, wanted" if isinstance(next(iter(table.values())), tuple) else "given"


@rows(TAKEN)
def test_what_is_certainly_a_video_becomes_one(given, wanted):
    seen = Seen().moments(given)
    assert isinstance(seen, jax.Array)
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, wanted, atol=2e-7)  # one rounding of values up to 1


@rows(REFUSED)
def test_what_is_no_video_is_named(given, wanted):
    with pytest.raises(UserError, match=wanted):
        Seen().encode(given)


@rows(LATENTS_TAKEN)
def test_what_are_certainly_latents_become_some(given):
    vae, wanted = Seen(), np.asarray(LATENTS, np.float32)
    tolerance = 0.02 if getattr(given, "dtype", None) == ml_dtypes.bfloat16 else 0
    np.testing.assert_allclose(vae.decode_hidden(given), wanted, rtol=tolerance)
    scaled = vae.scale(given)
    assert scaled.dtype == np.float32
    assert isinstance(scaled, jax.Array if isinstance(given, jax.Array) else np.ndarray)
    np.testing.assert_allclose(scaled, wanted * 0.18215, rtol=max(tolerance, 1e-6))
    np.testing.assert_allclose(vae.unscale(scaled), wanted, rtol=max(tolerance, 1e-6))


@pytest.mark.parametrize("function", ["decode", "decode_hidden", "scale", "unscale"])
@rows(LATENTS_REFUSED)
def test_what_are_no_latents_is_named(function, given, wanted):
    with pytest.raises(UserError, match=wanted):
        getattr(Seen(), function)(given)


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_types_and_shapes_are_looked_at_while_a_program_is_traced_and_change_nothing(kind):
    """Arrays of JAX reach the networks as they are, and what is wrong is found without values."""
    vae, video = Seen(), jax.ShapeDtypeStruct((1, 5, 8, 16, 3), kind)
    for function in (vae.moments, vae.decode_hidden):
        given = video if function == vae.moments else jax.ShapeDtypeStruct(LATENTS.shape, kind)
        program = jax.make_jaxpr(function)(given).jaxpr
        assert not program.eqns
    with pytest.raises(UserError, match="moveaxis"):
        jax.eval_shape(vae.encode, jax.ShapeDtypeStruct((1, 3, 5, 8, 16), kind))
    with pytest.raises(UserError, match="not int32"):
        jax.jit(vae.decode).lower(jax.ShapeDtypeStruct(LATENTS.shape, jnp.int32))


KEYS_REFUSED = {
    "seed": (0, "jax.random.key.seed., not 0"),
    "nothing": (None, "not None"),
    "integers": (np.arange(2), "not ndarray"),
    "half a key": (np.arange(1, dtype=np.uint32), "no key of jax.random"),
    "key of three": (jax.random.split(jax.random.key(0), 3), r"one for each of 1 .*, not \(3,\)"),
}


@rows(KEYS_REFUSED)
def test_what_draws_no_sample_is_named(given, wanted):
    with pytest.raises(UserError, match=wanted):
        POSTERIOR.sample(given)


def test_old_keys_draw_what_new_ones_do():
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    np.testing.assert_array_equal(POSTERIOR.sample(old), POSTERIOR.sample(new))


def test_other_shapes_are_not_broadcast_over_a_posterior():
    with pytest.raises(UserError, match="noise must have the shape"):
        POSTERIOR.with_noise(jnp.zeros((1, 1, 1, 2, 4)))
    with pytest.raises(UserError, match="latents of one shape"):
        POSTERIOR.kl(jax.tree.map(lambda x: x[:, :1], POSTERIOR))
