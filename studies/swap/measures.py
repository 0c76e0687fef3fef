"""What is measured of a seed, and of each of its video VAEs: numbers for tables, as JSON."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

import cvvae_jax
from cvvae_jax.metrics.diffusability import (
    fine_share,
    gaussian_velocity_variance,
    spatial_spectrum,
    temporal_spectrum,
    velocity_variance,
)
from cvvae_jax.metrics.frechet import FeatureStatistics, frechet_distance
from cvvae_jax.metrics.image import psnr
from cvvae_jax.metrics.latents import mmd, patches, principal_angles
from studies.classifier import Classifier, Judgment, as_values, distances, judge
from studies.latent_diffusion import DiT
from studies.swap.latents import (
    Latents,
    LinearMap,
    Scale,
    Video,
    decode,
    decode_alone,
    encode,
)
from studies.swap.models import (
    denoised,
    denoising_losses,
    image_scale,
    read_image_model,
    read_video_model,
    sampled,
)
from studies.swap.settings import GROUP, Kind, Place, Settings
from studies.swap.vaes import image_vae, video_vae

Numbers = dict
"""Nested numbers, for JSON."""

HALF = 0.5
"""The level of noise that latents are denoised from."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all measures of a seed share."""

    settings: Settings
    place: Place
    seed: int
    classifier: Classifier

    @functools.cached_property
    def clips(self) -> np.ndarray:
        """Test clips, uint8."""
        return self.settings.clips("test").clips(range(self.settings.samples))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Their labels."""
        return self.settings.clips("test").labels(range(self.settings.samples))

    @functools.cached_property
    def real(self) -> Judgment:
        """Test clips, judged."""
        return judge(self.classifier, as_values(self.clips), self.labels)

    @functools.cached_property
    def others(self) -> tuple[np.ndarray, np.ndarray]:
        """As many other real clips, and their labels."""
        numbers = range(self.settings.samples, 2 * self.settings.samples)
        clips = self.settings.clips("test")
        return as_values(clips.clips(numbers)), clips.labels(numbers)

    @functools.cached_property
    def fitted(self) -> np.ndarray:
        """Clips that scales and maps are fitted on, uint8."""
        return self.settings.clips("fit").clips(range(self.settings.tests))

    @functools.cached_property
    def tested(self) -> np.ndarray:
        """The test clips of measures of latents."""
        return self.clips[: self.settings.tests]

    @functools.cached_property
    def image_vae(self) -> cvvae_jax.ImageVAE:
        """E_i and D_i."""
        return image_vae(self.settings, self.place, self.seed)

    @functools.cached_property
    def scale(self) -> Scale:
        """E_i's scale."""
        return image_scale(self.settings, self.place, self.seed)

    @functools.cached_property
    def image_model(self) -> DiT:
        """The frozen image model."""
        return read_image_model(self.settings, self.place, self.seed)

    @functools.cached_property
    def video_model(self) -> DiT:
        """The frozen video model."""
        return read_video_model(self.settings, self.place, self.seed)

    def image_latents(self, clips: np.ndarray) -> Latents:
        """E_i's latents of the key frames."""
        return encode(self.image_vae, clips[:, self.settings.key_frames])

    def judged(self, video: Video, labels: np.ndarray, against: Judgment) -> Numbers:
        """Distances from real clips, and accuracies."""
        found = judge(self.classifier, video, labels)
        return {"distance": distances(found, against), "accuracy": found.accuracy}

    def losses(self, latents: Latents) -> np.ndarray:
        """The frozen image model's losses on scaled latents, every latent frame an image: (b * n,
        levels)."""
        b, n, *size = latents.shape
        labels = np.repeat(self.labels[:b, :2], n, axis=0)
        return denoising_losses(
            self.image_model, latents.reshape(b * n, 1, *size), labels, seed=self.seed
        )


def measure_seed(bench: Bench) -> tuple[Numbers, dict[str, np.ndarray]]:
    """What is measured of a seed without any video VAE, and the scaled samples of both models."""
    settings, seed = bench.settings, bench.seed
    own = bench.image_latents(bench.tested)
    losses = bench.losses(bench.scale.apply(own))
    patch = _patches(bench.scale.apply(own))
    labels, count = bench.labels, settings.tests
    images = sampled(
        bench.image_model,
        labels[:, :2],
        frames=1,
        steps=settings.sample_steps,
        seed=seed,
    )
    videos = sampled(
        bench.video_model,
        labels[:count],
        frames=own.shape[1],
        steps=settings.sample_steps,
        seed=seed,
    )
    shown = decode(bench.image_vae, bench.scale.undo(images))
    keys = decode(bench.image_vae, bench.scale.undo(videos))
    real_keys = judge(
        bench.classifier, as_values(bench.clips[:, settings.key_frames]), bench.labels
    )
    filled = _interpolated(keys)
    found = {
        "loss": losses.mean(axis=0).tolist(),
        "gaussian_velocity": gaussian_velocity_variance(patch),
        "floor": bench.judged(*bench.others, bench.real),
        "real_accuracy": bench.real.accuracy,
        "real_motion": _motion(as_values(bench.tested)),
        "images": bench.judged(shown, labels[:, :2], bench.real),
        "key_frames": bench.judged(keys, labels[:count], real_keys),
        "interpolated": bench.judged(filled, labels[:count], bench.real) | _motion(filled),
        "halfway": _halfway(bench, own, bench.image_vae),
    }
    return found, {"images": images, "videos": videos}


def measure_vae(bench: Bench, kind: Kind, samples: dict[str, np.ndarray]) -> Numbers:
    """What is measured of a video VAE: its reconstruction, the denoising losses, and what it shows
    of the frozen models' samples."""
    vae = video_vae(bench.settings, bench.place, kind, bench.seed)
    own, of_vae = bench.image_latents(bench.tested), encode(vae, bench.tested)
    scale = Scale.of(encode(vae, bench.fitted))
    return {
        "reconstruction": _reconstruction(bench, vae, of_vae),
        "latents": _compared(of_vae, own),
        "loss": _losses(bench, vae, scale, of_vae),
        "samples": _samples(bench, vae, scale, samples),
        "halfway": _halfway(bench, of_vae, vae),
    }


def _reconstruction(bench: Bench, vae: cvvae_jax.VideoVAE, of_vae: Latents) -> Numbers:
    """PSNR in dB, means over frames and clips."""
    video = as_values(bench.tested)
    keys = video[:, bench.settings.key_frames]
    return {
        "Ev-Dv": float(psnr(jnp.asarray(decode(vae, of_vae)), jnp.asarray(video)).mean()),
        "Ev-Di": float(
            psnr(jnp.asarray(decode(bench.image_vae, of_vae)), jnp.asarray(keys)).mean()
        ),
    }


def _patches(latents: Latents) -> np.ndarray:
    drawn = [patches(clip, size=2, count=16, seed=i) for i, clip in enumerate(latents)]
    return np.concatenate(drawn)


def _compared(of_vae: Latents, own: Latents) -> Numbers:
    """Cheap figures of latents, in E_i's units; patches of one half of the clips against those of
    the other."""
    scale = Scale.of(own)
    ours, theirs = scale.apply(of_vae), scale.apply(own)
    half = len(ours) // 2
    first, second, other = _patches(ours[:half]), _patches(ours[half:]), _patches(theirs[half:])
    statistics = FeatureStatistics(), FeatureStatistics()
    for into, rows in zip(statistics, (first, other), strict=True):
        into.add(rows)
    return {
        "distance": float(np.sqrt(np.square(ours - theirs).mean())),
        "frechet": frechet_distance(*statistics),
        "mmd": mmd(first[:1000], other[:1000]),
        "principal_angle": float(principal_angles(first, other).mean()),
        "velocity_variance": velocity_variance(first[:1000], second[:1000]),
        "gaussian_velocity": gaussian_velocity_variance(first),
        "fine_detail": fine_share(np.mean([spatial_spectrum(clip) for clip in ours], axis=0)),
        "fast_change": fine_share(np.mean([temporal_spectrum(clip) for clip in ours], axis=0)),
    }


def _losses(bench: Bench, vae: cvvae_jax.VideoVAE, scale: Scale, of_vae: Latents) -> Numbers:
    """Denoising losses by level: with E_i's scale, with the VAE's own, and after maps to E_i's
    latents, which are fitted on other clips."""
    inputs, targets = encode(vae, bench.fitted), bench.image_latents(bench.fitted)
    channels = LinearMap.fit_channels(inputs, targets)
    mixed = LinearMap.fit(inputs, targets)
    ways = {
        "image_scale": bench.scale.apply(of_vae),
        "own_scale": scale.apply(of_vae),
        "channel_map": bench.scale.apply(channels(of_vae)),
        "map": bench.scale.apply(mixed(of_vae)),
        "rescaled_map": bench.scale.apply(mixed.rescaled(inputs, targets)(of_vae)),
    }
    return {name: bench.losses(latents).mean(axis=0).tolist() for name, latents in ways.items()}


def _samples(
    bench: Bench, vae: cvvae_jax.VideoVAE, scale: Scale, samples: dict[str, np.ndarray]
) -> Numbers:
    """The frozen models' samples through D_v: scaled back by E_i's scale, by the VAE's own, and by
    E_i's with the map from E_i's latents to the VAE's."""
    back = LinearMap.fit(bench.image_latents(bench.fitted), encode(vae, bench.fitted))
    shown = decode(bench.image_vae, bench.scale.undo(samples["images"]))
    labels, count = bench.labels, bench.settings.tests
    ways = {
        "image_scale": bench.scale.undo,
        "own_scale": scale.undo,
        "map": lambda latents: back(bench.scale.undo(latents)),
    }
    found = {}
    for name, undo in ways.items():
        images = decode_alone(vae, undo(samples["images"]))
        videos = decode(vae, undo(samples["videos"]))
        found[name] = {
            "images": bench.judged(images, labels[:, :2], bench.real),
            "color_shift": (127.5 * (images - shown).mean(axis=(0, 1, 2, 3))).tolist(),
            "videos": bench.judged(videos, labels[:count], bench.real) | _motion(videos),
        }
    return found


def _halfway(bench: Bench, latents: Latents, vae: cvvae_jax.VideoVAE | cvvae_jax.ImageVAE) -> dict:
    """Latents noised half-way, denoised by the frozen image model, decoded one by one; of half of
    the test clips, by half as many steps as from noise."""
    latents = latents[: max(2, len(latents) // 2)]
    b, n, *size = latents.shape
    frames = bench.scale.apply(latents).reshape(b * n, 1, *size)
    labels = np.repeat(bench.labels[:b, :2], n, axis=0)
    clean = denoised(
        bench.image_model,
        frames,
        labels,
        level=HALF,
        steps=-(-bench.settings.sample_steps // 2),
        seed=bench.seed,
    )
    shown = decode_alone(vae, bench.scale.undo(clean))
    return bench.judged(shown, labels, bench.real)


def _motion(video: Video) -> Numbers:
    """How a video changes: the share of its variance over time that is fast, and, as a tooth, the
    mean change from frame to frame by the place in a group of four, over the mean of all."""
    fast = fine_share(np.mean([temporal_spectrum(clip) for clip in video], axis=0))
    steps = np.abs(np.diff(video, axis=1)).mean(axis=(0, 2, 3, 4))
    tooth = [float(steps[place::GROUP].mean() / steps.mean()) for place in range(GROUP)]
    return {"fast_change": fast, "tooth": tooth}


def _interpolated(keys: Video) -> Video:
    """Linear interpolation of n frames to 4 n - 3."""
    weights = (np.arange(GROUP) / GROUP).astype(np.float32).reshape(GROUP, 1, 1, 1, 1, 1)
    between = keys[:, :-1] + weights * np.diff(keys, axis=1)
    b, n, *size = keys.shape
    filled = between.swapaxes(0, 1).swapaxes(1, 2).reshape(b, GROUP * (n - 1), *size)
    return np.concatenate([filled, keys[:, -1:]], axis=1)
