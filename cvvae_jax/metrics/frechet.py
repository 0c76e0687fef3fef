"""The Frechet distance between two sets of features, of videos (FVD) or of frames (FID).

Before features are computed, frames are resized bilinearly to a square, without antialiasing
(`align_corners=False` in PyTorch) and without keeping their aspect ratio, as most implementations
do. Implementations that cut out the middle square instead agree on square videos.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cvvae_jax.models.feature_networks import i3d, inception
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3


class FeatureStatistics:
    """Mean and covariance of features that are added in parts, in float64 on the host.

    Parts are merged by the update of Chan, Golub & LeVeque (1983), which keeps its precision where
    means are large compared with deviations.

    Attributes:
        count: how many features were added.
        mean: (d,); None before the first.
        scatter: (d, d), the sum of outer products of deviations from the mean; None before the
            first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray | None = None
        self.scatter: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """Adds n features, any floats (n, d).

        Raises:
            ValueError: d differs from that of earlier features, or a feature isn't finite.
        """
        features = np.asarray(features, np.float64)
        if not np.isfinite(features).all():
            raise ValueError("Features must be finite to have a mean and a covariance.")
        part = FeatureStatistics()
        part.count = len(features)
        if part.count:
            part.mean = features.mean(axis=0)
            deviations = features - part.mean
            part.scatter = deviations.T @ deviations
        self.merge(part)

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds all features of `other`.

        Raises:
            ValueError: their length differs.
        """
        if not other.count:
            return
        if not self.count:
            self.count = other.count
            self.mean, self.scatter = other.mean.copy(), other.scatter.copy()
            return
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"Features have length {len(other.mean)}, those before {len(self.mean)}."
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(apart, apart) * (self.count * other.count / count)
        self.mean += apart * (other.count / count)
        self.count = count

    def covariance(self) -> np.ndarray:
        """The covariance without bias, float64 (d, d).

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"A covariance takes two features at least, not {self.count}.")
        return self.scatter / (self.count - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The squared Frechet distance between two Gaussians with these means and covariances (Dowson &
    Landau 1982), which is what FID and FVD report; 0 for equal ones.

    Covariances needn't have full rank, so there may be fewer features than a feature has entries.

    Raises:
        ValueError: one has fewer than two features, or lengths differ.
    """
    covariances = a.covariance(), b.covariance()
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Features have lengths {len(a.mean)} and {len(b.mean)}.")
    # The trace of the root of a product of covariances is the sum of the singular values of the
    # product of their roots. This avoids the root of a matrix that isn't symmetric, and roots of
    # eigenvalues that are only rounding errors.
    root_a, root_b = (_root(covariance) for covariance in covariances)
    overlap = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    spread = sum(np.trace(covariance) for covariance in covariances) - 2 * overlap
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + spread))


def _root(covariance: np.ndarray) -> np.ndarray:
    """A root F (d, r) of a covariance, F F^T, with a column for each eigenvalue above rounding
    errors."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])


def clip_features(network: I3D, video: Float[Array, "b t h w 3"]) -> Float[Array, "b k"]:
    """The 400 logits of I3D for every video, in float32; the video is clipped to [-1, 1].

    Frames are resized to 224 x 224; logits are averaged over time, as in the Frechet video distance
    of Unterthiner et al. 2018 ("Towards Accurate Generative Models of Video"), who take 16 frames.

    Raises:
        ValueError: the video has fewer than 9 frames.
    """
    return network.logits(_resized(video, size=i3d.SIZE)).mean(axis=1)


def frame_features(network: InceptionV3, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t c"]:
    """The 2048 features of InceptionV3 for every frame of a video, in float32; the video is clipped
    to [-1, 1].

    Frames are resized to 299 x 299, as in pytorch-fid (Heusel et al. 2017). pytorch-fid takes 8-bit
    images: to get its numbers, round a reconstruction to 8-bit levels first.
    """
    return network.features(_resized(video, size=inception.SIZE))


def _resized(video: Array, *, size: int) -> Array:
    b, t, _, _, c = video.shape
    video = jnp.clip(video.astype(jnp.float32), -1.0, 1.0)
    return jax.image.resize(video, (b, t, size, size, c), "bilinear", antialias=False)
