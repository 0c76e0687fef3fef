"""What commands gave of a video beside the plain model: WEIGHTS DTYPE VIDEO LATENTS.

Prints the largest differences as JSON, of the largest value: of the latents in a file, and of
pixels that the codec decodes from them on all devices.
"""

import json
import sys

import jax
import numpy as np
from safetensors.numpy import load_file

import cvvae_jax
from cvvae_jax.models.inputs import to_float
from cvvae_jax.video_io.video import read_frames


def difference(found, expected) -> float:
    found, expected = (np.asarray(array, np.float32) for array in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(weights: str, dtype: str, video: str, latents: str) -> dict[str, float]:
    vae = cvvae_jax.load(weights, dtype=dtype)
    frames = np.stack(list(read_frames(video)))[None]
    plain = jax.jit(lambda vae, video: vae.encode(to_float(video)).mode())(vae, frames)
    written = load_file(latents)["latents"][None]
    decoded = jax.jit(lambda vae, latents: vae.decode(latents))(vae, written)
    return {
        "encode": difference(written, plain),
        "decode": difference(cvvae_jax.Codec(vae).decode(written), decoded),
    }


if __name__ == "__main__":
    print(json.dumps(compare(*sys.argv[1:])))
