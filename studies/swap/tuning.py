"""Tuning: how many steps bring the video model of image latents to a video VAE's latents."""

import jax
import numpy as np

from studies.latent_diffusion import DiT
from studies.swap.latents import Latents, encode
from studies.swap.measures import Bench, Numbers
from studies.swap.models import denoising_losses, drawn
from studies.swap.settings import TUNED, Kind
from studies.swap.vaes import video_vae

_TESTED = 64
_MARKS = (0, 1 / 30, 1 / 15, 1 / 6, 1 / 3, 2 / 3, 1)
"""When the loss is measured, as shares of all steps."""
WITHIN = 1.05
"""The loss to reach, as a multiple of the video model's own on E_i's latents."""


def tune(bench: Bench, kind: Kind) -> Numbers:
    """The course of the loss on a VAE's test latents while parts of the video model are tuned to
    its training latents, scaled as E_i's; and the loss to reach."""
    settings = bench.settings
    vae = video_vae(settings, bench.place, kind, bench.seed)
    clips = settings.clips("fit")
    numbers = range(settings.tests, settings.tests + settings.tuning_pool)
    latents = bench.scale.apply(encode(vae, clips.clips(numbers)))
    tested = bench.clips[:_TESTED]
    reached = _loss(bench, bench.video_model, bench.scale.apply(bench.image_latents(tested)))
    of_tests = bench.scale.apply(encode(vae, tested))
    found = {"goal": WITHIN * reached}
    for part in settings.tuned:
        found[part] = _course(bench, part, latents, clips.labels(numbers), of_tests)
    return found


def _course(
    bench: Bench, part: str, latents: Latents, labels: np.ndarray, tested: Latents
) -> Numbers:
    trainer = bench.settings.tuning(part)
    state = trainer.begin(bench.video_model)
    marks = sorted({round(share * trainer.steps) for share in _MARKS})
    batches = drawn(latents, labels, batch=bench.settings.video_batch, seed=bench.seed)
    losses = []
    for step in range(trainer.steps + 1):
        if step in marks:
            losses.append(_loss(bench, state.ema, tested))
        if step < trainer.steps:
            state, _ = trainer.step(state, *next(batches), jax.random.key(bench.seed))
    trained = sum(
        leaf.size
        for where, leaf in jax.tree_util.tree_leaves_with_path(state.model)
        if not TUNED[part] or any(name in jax.tree_util.keystr(where) for name in TUNED[part])
    )
    return {"steps": marks, "loss": losses, "parameters": trained}


def _loss(bench: Bench, model: DiT, latents: Latents) -> float:
    labels = bench.labels[: len(latents)]
    return float(denoising_losses(model, latents, labels, seed=bench.seed).mean())


def steps_to(goal: float, course: Numbers) -> int | None:
    """The first measured step with at most this loss; None where none has it."""
    pairs = zip(course["steps"], course["loss"], strict=True)
    return next((step for step, loss in pairs if loss <= goal), None)
