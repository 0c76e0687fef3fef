"""What Frechet distances of videos and of frames are taken between: features of networks that
classify.

Frames are resized bilinearly, without smoothing before they shrink (`align_corners=False` in
PyTorch), and without regard to their aspect. That is what most implementations do; those that cut
out the middle square instead agree on square videos.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvvae_jax.models import i3d, inception
from cvvae_jax.models.i3d import I3D
from cvvae_jax.models.inception import InceptionV3


def clip_features(network: I3D, video: Float[Array, "b t h w 3"]) -> Float[Array, "b k"]:
    """The 400 logits of I3D for every video in [-1, 1], in float32; the video is clipped to them.

    Frames are resized to 224 x 224; logits are averaged over time, as in the Frechet video distance
    of Unterthiner et al. 2018 ("Towards Accurate Generative Models of Video"), who take 16 frames.

    Raises:
        ValueError: the video has fewer than 9 frames.
    """
    return network.logits(_resized(video, size=i3d.SIZE)).mean(axis=1)


def frame_features(network: InceptionV3, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t c"]:
    """The 2048 features of InceptionV3 for every frame of a video in [-1, 1], in float32; the video
    is clipped to them.

    Frames are resized to 299 x 299, as pytorch-fid does (Heusel et al. 2017). Its values are those
    of 8-bit images, so round a reconstruction to them where its numbers are to be met.
    """
    return network.features(_resized(video, size=inception.SIZE))


def _resized(video: Array, *, size: int) -> Array:
    b, t, _, _, c = video.shape
    video = jnp.clip(video.astype(jnp.float32), -1.0, 1.0)
    return jax.image.resize(video, (b, t, size, size, c), "bilinear", antialias=False)
