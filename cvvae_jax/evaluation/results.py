"""What an evaluation leaves: results.json, examples, and the report."""

import dataclasses
import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cvvae_jax.config import ConfigError
from cvvae_jax.evaluation.clips import Clip, ClipInfo
from cvvae_jax.evaluation.measure import NETWORK_METRICS, Arrays
from cvvae_jax.evaluation.report.page import write_report
from cvvae_jax.evaluation.report.players import write_example
from cvvae_jax.evaluation.store import LeftOut, Store
from cvvae_jax.evaluation.summary import summarize
from cvvae_jax.models.pixels import to_uint8

if TYPE_CHECKING:
    from cvvae_jax.evaluation.run import Evaluation

_VERSIONS = ("jax", "jaxlib", "flax", "numpy", "av", "pillow")

_EXAMPLE_FRAMES = 100

RebuildClips = Callable[[str, Sequence[Clip]], np.ndarray]
"""The reconstructions of clips of one shape by a contender, which is named."""


def write_results(
    evaluation: "Evaluation", store: Store, rebuild: RebuildClips, *, seconds: float
) -> Path:
    """Sums up everything that was measured; the report's path.

    Raises:
        ConfigError: no clip could be measured.
    """
    looked = {number: store.clip(number) for number in range(len(evaluation.clips))}
    measured = {n: clip for n, clip in looked.items() if isinstance(clip, ClipInfo)}
    left_out = [clip for clip in looked.values() if isinstance(clip, LeftOut)]
    if not measured:
        raise ConfigError(
            f"none of the {len(looked)} files of {evaluation.data} can be measured; the first: "
            f"{left_out[0].reason}"
        )

    def read(name: str) -> Iterator[Arrays]:
        return (store.read(name, number) for number in measured)

    names = [contender.name for contender in evaluation.contenders]
    group = max(contender.temporal_compression for contender in evaluation.contenders)
    figures = summarize(read, names, evaluation.protocol, group=group)
    results = {
        "protocol": {"name": evaluation.name} | evaluation.settings["protocol"],
        "data": {
            "place": evaluation.data,
            "hash": evaluation.clips.hash,
            "clips": [dataclasses.asdict(clip) for clip in measured.values()],
            "left_out": [dataclasses.asdict(clip) for clip in left_out],
        },
        "contenders": [contender.record() for contender in evaluation.contenders],
        "not_measured": _not_measured(evaluation),
        **figures,
        "examples": _examples(evaluation, store, rebuild, list(measured), figures["scores"]),
        "environment": _environment(evaluation, seconds),
    }
    store.write_results(results)
    return write_report(results, store.folder)


def _not_measured(evaluation: "Evaluation") -> list[dict[str, str]]:
    """Metrics of the protocol that something is missing for."""
    wanted = set(evaluation.protocol.metrics)
    missing = [
        {"metric": name, "reason": "no weights were given for its network"}
        for name in sorted(wanted & NETWORK_METRICS - evaluation.networks.keys())
    ]
    if "compatibility" in wanted and evaluation.image_vae is None:
        missing.append({"metric": "compatibility", "reason": "no image VAE was given"})
    elif "compatibility" in wanted:
        reason = f"the image VAE has other latents, {evaluation.image_vae.latents}"
        missing += [
            {"metric": f"compatibility of {contender.name}", "reason": reason}
            for contender in evaluation.contenders
            if contender.kind == "VideoVAE" and not evaluation.is_paired(contender)
        ]
    return missing


def _environment(evaluation: "Evaluation", seconds: float) -> dict[str, Any]:
    return {
        "command": " ".join(sys.argv),
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "networks": {
            name: {"path": file.path, "sha256": file.sha256}
            for name, file in sorted(evaluation.networks.items())
        },
        "image_vae": evaluation.image_vae and evaluation.image_vae.record(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _VERSIONS},
        "seconds": round(seconds, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _examples(
    evaluation: "Evaluation",
    store: Store,
    rebuild: RebuildClips,
    numbers: list[int],
    scores: dict[str, Any],
) -> list[dict[str, Any]]:
    """Clips of every model to look at: its worst and its best by PSNR."""
    found = []
    for contender in evaluation.contenders:
        values = scores[contender.name].get("psnr", {}).get("clips")
        if contender.kind == "baseline" or not values:
            continue
        order = np.argsort(values)
        count = min(evaluation.examples, len(order) // 2 or 1)
        chosen = [("worst", i) for i in order[:count]]
        chosen += [("best", i) for i in order[::-1][:count] if i not in order[:count]]
        for why, i in chosen:
            media = f"media/{contender.name}_{numbers[i]:06d}.webm"
            if not (store.folder / media).exists():
                _write_example(evaluation.clips[numbers[i]], contender.name, rebuild, store, media)
            found.append(
                {
                    "contender": contender.name,
                    "clip": evaluation.clips.name(numbers[i]),
                    "why": why,
                    "psnr": values[i],
                    "media": media,
                }
            )
    return found


def _write_example(clip: Clip, name: str, rebuild: RebuildClips, store: Store, media: str) -> None:
    recon = rebuild(name, [clip])
    shown = slice(_EXAMPLE_FRAMES)  # a page of whole videos would be too large
    path = store.folder / media
    path.parent.mkdir(exist_ok=True)
    recon = recon[0] if recon.dtype == np.uint8 else np.asarray(to_uint8(recon[0]))
    write_example(path, clip.video[shown], recon[shown], fps=clip.info.fps)
