"""The bench: clips and flat fields through contenders, measured and kept in the folder."""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from cvvae_jax.errors import UserError, visible
from cvvae_jax.evaluation.clips import Clip, ClipInfo
from cvvae_jax.evaluation.compatibility import measure_compatibility
from cvvae_jax.evaluation.contenders import Baseline, Contender, Model
from cvvae_jax.evaluation.flat_fields import measure_flat_fields
from cvvae_jax.evaluation.latents import joined, midpoints
from cvvae_jax.evaluation.measure import Measure
from cvvae_jax.evaluation.metrics import Arrays
from cvvae_jax.evaluation.store import BETWEEN, FLAT_FIELDS, INPUT, LeftOut, Store
from cvvae_jax.evaluation.summary import COMPATIBILITY
from cvvae_jax.metrics.image import psnr_of
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import to_float
from cvvae_jax.resumable.parallel import in_order

if TYPE_CHECKING:
    from cvvae_jax.evaluation.run import Evaluation


class Bench:
    """Measures clips; models are loaded when the first clip needs them."""

    def __init__(self, evaluation: "Evaluation", store: Store):
        self._evaluation, self._store = evaluation, store
        self._opened: dict[str, Model | Baseline] = {}
        # The image VAE's posteriors of the current clips, by their numbers; all models share them.
        self._image_posteriors: dict[tuple[int, ...], DiagonalGaussian] = {}

    def measure(self, numbers: Sequence[int]) -> Iterator[int]:
        """Measures clips, and gives their numbers."""
        at_once = 1 if self._evaluation.protocol.frames is None else jax.local_device_count()
        for batch in _batches(self._read(numbers), self._evaluation.batch or at_once):
            if clips := [clip for clip in batch.values() if clip is not None]:
                with _naming(clips):
                    self._measure(clips)
            yield from batch

    def measure_flat_fields(self, contenders: Sequence[Contender]) -> None:
        """Measures contenders on clips of one color, where that isn't done yet; nothing as long as
        no clip could be measured, since then there will be no results."""
        if not self._evaluation.protocol.flat_fields:
            return
        numbers = range(len(self._evaluation.clips))
        if not any(isinstance(self._store.clip(number), ClipInfo) for number in numbers):
            return
        for contender in contenders:
            if not self._store.has(contender.name, FLAT_FIELDS):
                opened, protocol = self._open(contender.name), self._evaluation.protocol
                arrays = measure_flat_fields(opened, contender, protocol)
                self._store.write(contender.name, FLAT_FIELDS, arrays)

    def measure_between(self) -> None:
        """Measures what every model decodes between clips that are neighbors in its latents. It
        takes the latents of all clips, so that it comes after them."""
        if "interpolated" not in self._evaluation.protocol.metrics:
            return
        found = map(self._store.clip, range(len(self._evaluation.clips)))
        clips = {n: clip for n, clip in enumerate(found) if isinstance(clip, ClipInfo)}
        for contender in self._evaluation.contenders:
            name, opened = contender.name, self._open(contender.name)
            if isinstance(opened, Model) and not self._store.has(name, BETWEEN):
                latents = [self._store.read(name, number)["latents"] for number in clips]
                sizes = [(clip.frames, clip.height, clip.width) for clip in clips.values()]
                features = [
                    self._measured.features(opened.codec.decode(between)[0])
                    for between in midpoints(sizes, latents, self._evaluation.protocol.pixels)
                ]
                self._store.write(name, BETWEEN, joined(features))

    def rebuild(self, name: str, clips: Sequence[Clip]) -> np.ndarray:
        """A contender's reconstructions of clips of one shape."""
        return self._rebuilt(name, self._videos(clips), clips)[0]

    def _rebuilt(
        self, name: str, videos: np.ndarray, clips: Sequence[Clip]
    ) -> tuple[np.ndarray, DiagonalGaussian | None]:
        """Reconstructions, and a model's posterior."""
        numbers = np.array([clip.number for clip in clips], np.uint32)
        opened, posterior = self._open(name), None
        if isinstance(opened, Model):
            posterior = opened.codec.posterior(videos)
            recons = opened.decode(posterior, videos, numbers)
        else:
            recons = opened.rebuild(videos)
        if not np.isfinite(recons).all():
            raise UserError(f"{name} gives pixels that are no numbers.")
        return recons, posterior

    @functools.cached_property
    def _measured(self) -> Measure:
        networks = {name: file.model for name, file in self._evaluation.networks.items()}
        return Measure(self._evaluation.protocol, networks)

    @functools.cached_property
    def _image_model(self) -> Model | None:
        found = self._evaluation.image_vae
        return None if found is None else found.open(self._evaluation.protocol)

    def _open(self, name: str) -> Model | Baseline:
        if name not in self._opened:
            [contender] = [c for c in self._evaluation.contenders if c.name == name]
            self._opened[name] = contender.open(self._evaluation.protocol)
        return self._opened[name]

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Clip | None]]:
        """Clips by number, read ahead; None for one that can't be read, which is noted."""

        def job(number: int) -> Iterator[Clip | LeftOut]:
            try:
                clip = self._evaluation.clips[number]
                self._require_size(clip)
                yield clip
            except UserError as error:
                reason = visible(" ".join(str(error).split()))  # it may name the file as it is
                yield LeftOut(self._evaluation.clips.name(number), reason)

        jobs = (functools.partial(job, number) for number in numbers)
        clips = in_order(jobs, threads=self._evaluation.readers)
        for number, clip in zip(numbers, clips, strict=True):
            if isinstance(clip, LeftOut):
                self._store.write_clip(number, clip)
                clip = None
            yield number, clip

    def _require_size(self, clip: Clip) -> None:
        """Refuses a clip that is smaller than one latent of some model."""
        least = max(contender.spatial_compression for contender in self._evaluation.contenders)
        if min(clip.info.height, clip.info.width) < least:
            raise UserError(
                f"{clip.info.name} has {clip.info.width}x{clip.info.height} pixels; these models "
                f"need {least}x{least} at least."
            )

    def _measure(self, batch: Sequence[Clip]) -> None:
        evaluation, store = self._evaluation, self._store
        for clip in batch:
            before = store.clip(clip.number)
            if isinstance(before, ClipInfo) and before != clip.info:
                raise UserError(
                    f"not the file that it was when {evaluation.out} was begun: name another --out."
                )
            store.write_clip(clip.number, clip.info)
        self._image_posteriors = {}
        for contender in evaluation.contenders:
            todo = [clip for clip in batch if not store.has(contender.name, clip.number)]
            if todo:
                self._measure_contender(contender, todo)
        for clip in batch:
            if not store.has(INPUT, clip.number):
                [video] = self._videos([clip])
                store.write(INPUT, clip.number, self._measured.features(video))

    def _measure_contender(self, contender: Contender, clips: Sequence[Clip]) -> None:
        videos, opened = self._videos(clips), self._open(contender.name)
        recons, posterior = self._rebuilt(contender.name, videos, clips)
        borders = opened.tile_borders(videos)
        compatibility = {}
        if self._evaluation.is_paired(contender):
            compatibility = self._compatibility(opened, videos, clips, posterior, recons)
        for i, (clip, video, recon) in enumerate(zip(clips, videos, recons, strict=True)):
            arrays = self._measured(recon, video, tile_borders=borders)
            if posterior is not None:
                arrays |= self._measured.latents(np.asarray(posterior.mean)[i], clip.number)
            arrays |= {COMPATIBILITY + name: x[i] for name, x in compatibility.items()}
            self._store.write(contender.name, clip.number, arrays)

    def _compatibility(
        self,
        model: Model,
        videos: np.ndarray,
        clips: Sequence[Clip],
        posterior: DiagonalGaussian,
        recons: np.ndarray,
    ) -> Arrays:
        numbers = tuple(clip.number for clip in clips)
        if numbers not in self._image_posteriors:
            self._image_posteriors[numbers] = self._image_model.codec.posterior(videos)
        return measure_compatibility(
            model.codec,
            self._image_model.codec,
            videos,
            image_metrics=self._image_metrics,
            seeds=numbers,
            posterior=posterior,
            image_posterior=self._image_posteriors[numbers],
            recon=recons if self._evaluation.protocol.latents == "mode" else None,
        )

    def _image_metrics(self, recon: np.ndarray, target: np.ndarray) -> Arrays:
        found = self._measured.frames(recon, target)
        if "mse" in found:
            found["psnr"] = psnr_of(found.pop("mse"))
        return found

    def _videos(self, clips: Iterable[Clip]) -> np.ndarray:
        videos = np.stack([clip.video for clip in clips])
        if self._evaluation.protocol.pixels == "float":
            return np.asarray(to_float(videos))
        return videos


@contextlib.contextmanager
def _naming(clips: Sequence[Clip]) -> Iterator[None]:
    """Puts the names of clips before the message of an error."""
    try:
        yield
    except UserError as error:
        names = ", ".join(clip.info.name for clip in clips)
        raise UserError(f"{names}: {error}") from error


def _batches(
    clips: Iterable[tuple[int, Clip | None]], size: int
) -> Iterator[dict[int, Clip | None]]:
    """Neighbors of one shape, `size` at most."""
    for _, alike in itertools.groupby(clips, key=lambda pair: pair[1] and pair[1].video.shape):
        while batch := dict(itertools.islice(alike, size)):
            yield batch
