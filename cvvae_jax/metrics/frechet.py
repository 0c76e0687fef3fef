"""Frechet distance between two sets of features: what FVD and FID are."""

import numpy as np


class Statistics:
    """Mean and covariance of features that arrive in parts, float64 on the host.

    Every part is centered by itself and joined by the update of Chan, Golub & LeVeque (1983), so
    that nothing is lost where means are large beside deviations.

    Attributes:
        count: how many features there were.
        mean: (d,); None before the first.
        scatter: (d, d), the sum of outer products of deviations from the mean; None before the
            first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray | None = None
        self.scatter: np.ndarray | None = None

    def add(self, features: np.ndarray) -> None:
        """Takes in features, any float (n, d).

        Raises:
            ValueError: d isn't that of the features before, or a feature isn't finite.
        """
        features = np.asarray(features, np.float64)
        if not np.isfinite(features).all():
            raise ValueError("Features must be finite to have a mean and a covariance.")
        part = Statistics()
        part.count = len(features)
        if part.count:
            part.mean = features.mean(axis=0)
            deviations = features - part.mean
            part.scatter = deviations.T @ deviations
        self.merge(part)

    def merge(self, other: "Statistics") -> None:
        """Takes in all features that `other` has taken in.

        Raises:
            ValueError: they are of another length.
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
        """Without bias: float64 (d, d).

        Raises:
            ValueError: there are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"A covariance takes two features at least, not {self.count}.")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance between two Gaussians of these means and covariances (Dowson &
    Landau 1982), as FID and FVD are given: 0 for equal ones.

    Works for covariances without full rank, as of fewer features than they have entries.

    Raises:
        ValueError: one has fewer than two features, or lengths differ.
    """
    covariances = a.covariance(), b.covariance()
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Features have lengths {len(a.mean)} and {len(b.mean)}.")
    # The trace of the root of a product of covariances is the sum of singular values of the
    # product of their own roots: no root of a matrix that isn't symmetric, and no root of
    # eigenvalues that are rounding errors.
    root_a, root_b = (_root(covariance) for covariance in covariances)
    overlap = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    spread = sum(np.trace(covariance) for covariance in covariances) - 2 * overlap
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + spread))


def _root(covariance: np.ndarray) -> np.ndarray:
    """F with F F^T = covariance, a column for each eigenvalue above rounding errors, (d, r)."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])
