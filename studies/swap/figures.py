"""The study's figures: the gap by level of noise, the course of tuning, and samples to look at."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from studies.files import read_arrays
from studies.swap.latents import decode, decode_alone
from studies.swap.models import image_scale
from studies.swap.results import Results
from studies.swap.settings import KINDS, LEVELS, Place, Settings
from studies.swap.vaes import image_vae, video_vae

COLORS = dict(zip(KINDS, ("tab:blue", "tab:green", "tab:orange", "tab:red"), strict=True))
_SHOWN = 8


def all_figures(results: Results, place: Place) -> None:
    """Draws all of them as PNG into the results' folder."""
    plt.switch_backend("agg")
    place.results("").mkdir(parents=True, exist_ok=True)
    _gaps(results, place.results("gaps.png"))
    _tuning(results, place.results("tuning.png"))
    _samples(results.settings, place, place.results("samples.png"))


def _gaps(results: Results, path: Path) -> None:
    """A line for each seed and VAE; dashed after the rescaled 1 x 1 map."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for kind in KINDS:
        for number, seed in enumerate(results.of_seed):
            for way, style in (("image_scale", "-"), ("rescaled_map", "--")):
                gap = results.differences(seed, kind, way)
                named = kind if style == "-" else f"{kind}, mapped"
                label = None if number else named
                axes.plot(LEVELS, gap, style, color=COLORS[kind], label=label, linewidth=1)
    floor = results.floor(next(iter(results.of_seed)))
    axes.axhspan(-floor, floor, color="0.85", label="floor")
    axes.set(xlabel="level of noise", ylabel="loss on E_v's latents − loss on E_i's")
    axes.legend(fontsize=8)
    _save(figure, path)


def _tuning(results: Results, path: Path) -> None:
    parts = results.settings.tuned
    figure, axes = plt.subplots(
        1, len(parts), figsize=(11, 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, part in zip(axes[0], parts, strict=True):
        for (seed, kind), found in results.tuning.items():
            label = kind if seed == next(iter(results.of_seed)) else None
            course = found[part]
            axis.plot(course["steps"], course["loss"], color=COLORS[kind], label=label, linewidth=1)
        axis.set(title=f"tuned: {part}", xlabel="steps")
    axes[0, 0].set_ylabel("loss on E_v's test latents")
    axes[0, 0].legend(fontsize=8)
    _save(figure, path)


def _samples(settings: Settings, place: Place, path: Path) -> None:
    """The first seed's first samples of the image model through each decoder, a row each."""
    seed = next(iter(settings.images))
    scaled = read_arrays(place.of_seed(seed, "samples.npz"))["images"][:_SHOWN]
    latents = image_scale(settings, place, seed).undo(scaled)
    rows = {"D_i": decode(image_vae(settings, place, seed), latents)}
    rows |= {kind: decode_alone(video_vae(settings, place, kind, seed), latents) for kind in KINDS}
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(8, 1.1 * len(rows)), squeeze=False, layout="constrained"
    )
    for axis, (name, frames) in zip(axes[:, 0], rows.items(), strict=True):
        axis.imshow(np.clip(np.concatenate(list(frames[:, 0]), axis=1) / 2 + 0.5, 0, 1))
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
