"""An evaluation: clips through contenders, measured, and summed up once all of them are there."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from cvvae_jax.errors import UserError, visible
from cvvae_jax.evaluation.clips import Clip, ClipInfo, Clips
from cvvae_jax.evaluation.compatibility import measure_compatibility
from cvvae_jax.evaluation.contenders import Baseline, Contender, Model
from cvvae_jax.evaluation.flat_fields import measure_flat_fields
from cvvae_jax.evaluation.measure import Measure
from cvvae_jax.evaluation.metrics import DEFINITIONS, Arrays
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.report.page import REPORT_NAME
from cvvae_jax.evaluation.results import write_results
from cvvae_jax.evaluation.store import FLAT_FIELDS, INPUT, LeftOut, Store
from cvvae_jax.evaluation.summary import COMPATIBILITY
from cvvae_jax.metrics.image import psnr_of
from cvvae_jax.models.gaussian import DiagonalGaussian
from cvvae_jax.models.inputs import to_float
from cvvae_jax.resumable.parallel import in_order
from cvvae_jax.resumable.share import Share
from cvvae_jax.resumable.target import Track, interruptible, named_errors

Barrier = Callable[[str], None]
"""Waits until all processes have reached the barrier of this name."""


@dataclasses.dataclass(frozen=True)
class NetworkFile:
    """Weights of a network that a metric is made of, read already."""

    path: str
    sha256: str
    model: object = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The contenders, the clips and the settings of an evaluation."""

    name: str
    """Name of the protocol."""
    protocol: Protocol
    data: str
    """Place of the clips, as training data's."""
    out: Path
    contenders: Sequence[Contender]
    """The first one is what differences are taken against."""
    image_vae: Contender | None
    """The image VAE that compatibility is measured with."""
    networks: dict[str, NetworkFile]
    """The networks whose weights were given, by the metric's name."""
    examples: int = 1
    """Clips with the worst PSNR, and with the best, that the report shows of every model."""
    batch: int | None = None
    """Clips that a model takes at once. By default one per device, or a single one where clips are
    whole videos."""
    readers: int = 2
    """Clips that are read ahead."""

    @functools.cached_property
    def clips(self) -> Clips:
        """The clips of the data, found but not read."""
        return Clips(self.data, self.protocol)

    def is_paired(self, contender: Contender) -> bool:
        """Whether a contender's compatibility is measured: its latents have the image VAE's
        shape."""
        return (
            contender.kind == "VideoVAE"
            and "compatibility" in self.protocol.metrics
            and self.image_vae is not None
            and contender.latents == self.image_vae.latents
        )

    @property
    def settings(self) -> dict:
        """The settings that all figures of a folder must have in common."""
        return {
            "protocol": self.protocol.hash,
            "definitions of metrics": DEFINITIONS,
            "data": {"files": len(self.clips), "names": self.clips.hash},
            "matmul precision": jax.config.jax_default_matmul_precision,
            "networks": {name: file.sha256 for name, file in sorted(self.networks.items())},
            "image VAE": self.image_vae and self.image_vae.sha256,
        }


def evaluate(
    evaluation: Evaluation,
    *,
    share: Share,
    barrier: Barrier | None = None,
    track: Track | None = None,
) -> Path | None:
    """Measures the clips that are not measured yet; then writes results and report.

    Args:
        evaluation: contenders, clips and settings.
        share: which of the clips this process measures.
        barrier: lets the processes wait for each other; then process 0 writes the results. Without
            it, the process that ends last does.
        track: shows progress; None for none.

    Returns:
        The report; None while clips of other processes are missing.

    Raises:
        UserError: there is nothing to measure, another process is at it, or the folder was begun
            with something else.
        KeyboardInterrupt: Ctrl-C or SIGTERM; its message says how to go on.
    """
    names = [contender.name for contender in evaluation.contenders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"several contenders are called {twice[0]}: name them with NAME=PATH.")
    _check_image_vae(evaluation)
    store = Store(evaluation.out)
    out = str(evaluation.out)
    with interruptible(), named_errors(out), store.kept_by(share):
        numbers = range(len(evaluation.clips))
        store.begin(evaluation.settings)
        for contender in evaluation.contenders:
            store.enter(contender)
        mine = [n for n in numbers if share.has(n) and _missing(evaluation, store, n)]
        bench = Bench(evaluation, store)
        measured = bench.measure(mine)
        for _ in track(measured, total=len(mine), unit="clips") if track else measured:
            pass
        mine = [c for i, c in enumerate(evaluation.contenders) if share.has(i)]
        bench.measure_flat_fields(mine)
        if barrier is not None:
            barrier("measured")
        if any(_missing(evaluation, store, n, looked=True) for n in numbers):
            return None
        if barrier is None or share.process_index == 0:
            bench.measure_flat_fields(evaluation.contenders)  # those that others left
            write_results(evaluation, store, bench.rebuild)
        if barrier is not None:
            barrier("written")
        return evaluation.out / REPORT_NAME


def _check_image_vae(evaluation: Evaluation) -> None:
    """Refuses an image VAE whose latents no video VAE has the shape of."""
    image_vae = evaluation.image_vae
    models = [contender for contender in evaluation.contenders if contender.kind == "VideoVAE"]
    if image_vae is None or not models:
        return
    if all(model.latents != image_vae.latents for model in models):
        raise UserError(
            f"the image VAE {image_vae.weights} has {image_vae.latents}, {models[0].name} "
            f"{models[0].latents}: it is not the one that the model was trained with."
        )


def _missing(
    evaluation: Evaluation, store: Store, number: int, *, looked: bool = False
) -> list[str]:
    """Names of the contenders that a clip is still to be measured for. With `looked`, a clip that
    was left out needs none."""
    clip = store.clip(number)
    if looked and isinstance(clip, LeftOut):
        return []
    names = [contender.name for contender in evaluation.contenders]
    return [name for name in (*names, INPUT) if clip is None or not store.has(name, number)]


class Bench:
    """Measures clips; models are loaded when the first clip needs them."""

    def __init__(self, evaluation: Evaluation, store: Store):
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
