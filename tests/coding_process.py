"""One process of several that share a video: `coding_process.py FOLDER OPTIONS --distributed`."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from tiny_models import TINY, random_model

from cvvae_jax.codec.codec import Codec
from cvvae_jax.config import VideoVAEConfig
from cvvae_jax.models.video_vae import VideoVAE
from cvvae_jax.processes import group

if __name__ == "__main__":
    joined = group.join()
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    codec = Codec(random_model(VideoVAE, VideoVAEConfig(**TINY)), chunk_frames=4, **options)
    with np.load(folder / "given.npz") as given:
        latents = codec.encode(given["video"]).values
        video = codec.decode(given["latents"])
    np.savez(folder / f"made-{jax.process_index()}.npz", latents=latents, video=video)
    sys.exit(joined.end(0, "", together=True))
