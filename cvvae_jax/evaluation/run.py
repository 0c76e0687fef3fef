"""An evaluation: clips through contenders, measured, and summed up once all of them are there."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.bench import Bench
from cvvae_jax.evaluation.clips import Clips
from cvvae_jax.evaluation.contenders import Contender
from cvvae_jax.evaluation.metrics import DEFINITIONS
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.report.page import REPORT_NAME
from cvvae_jax.evaluation.results import write_results
from cvvae_jax.evaluation.store import INPUT, LeftOut, Store
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
            bench.measure_between()
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
