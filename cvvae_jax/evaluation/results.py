"""Writes the results of an evaluation: results.json, examples, and the report."""

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

import cvvae_jax
from cvvae_jax.checkpoint.origin import commit
from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.clips import Clip, ClipInfo
from cvvae_jax.evaluation.contenders import Contender
from cvvae_jax.evaluation.flat_fields import COLORS, as_picture, summarize_flat_fields
from cvvae_jax.evaluation.metrics import METRICS, Arrays, Metric
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.evaluation.report.page import write_report
from cvvae_jax.evaluation.report.players import write_example
from cvvae_jax.evaluation.store import BETWEEN, FLAT_FIELDS, LeftOut, Store
from cvvae_jax.evaluation.summary import summarize
from cvvae_jax.models.inputs import to_uint8

if TYPE_CHECKING:
    from cvvae_jax.evaluation.run import Evaluation

_VERSIONS = ("jax", "jaxlib", "flax", "numpy", "av", "pillow")

_EXAMPLE_FRAMES, _MEDIA = 100, "media"
_PICTURED = ("middle", "worst")  # colors

RebuildClips = Callable[[str, Sequence[Clip]], np.ndarray]
"""Takes a contender's name and clips of one shape, and gives the reconstructions."""


def write_results(evaluation: "Evaluation", store: Store, rebuild: RebuildClips) -> Path:
    """Sums up everything that was measured; the report's path.

    Raises:
        UserError: no clip could be measured.
    """
    looked = {number: store.clip(number) for number in range(len(evaluation.clips))}
    measured = {n: clip for n, clip in looked.items() if isinstance(clip, ClipInfo)}
    left_out = [clip for clip in looked.values() if isinstance(clip, LeftOut)]
    if not measured:
        raise UserError(
            f"none of the {len(looked)} files of {evaluation.data} can be measured; the first: "
            f"{left_out[0].reason}"
        )

    def read(name: str) -> Iterator[Arrays]:
        return (store.read(name, number) for number in measured)

    names = [contender.name for contender in evaluation.contenders]
    group = max(contender.temporal_compression for contender in evaluation.contenders)
    between = "interpolated" in evaluation.protocol.metrics
    figures = summarize(
        read,
        names,
        evaluation.protocol,
        group=group,
        read_between=functools.partial(_between, store) if between else None,
    )
    if not figures["metrics"]:
        raise UserError(
            f"nothing of what the protocol measures, {', '.join(evaluation.protocol.metrics)}, can "
            f"be measured: {_reasons(_not_measured(evaluation, figures['scores'], len(measured)))}"
        )
    store.clear()
    results = {
        "protocol": {
            "name": evaluation.name,
            "hash": evaluation.protocol.hash,
            **dataclasses.asdict(evaluation.protocol),
        },
        "data": {
            "place": evaluation.data,
            "hash": evaluation.clips.hash,
            "clips": [dataclasses.asdict(clip) for clip in measured.values()],
            "left_out": [dataclasses.asdict(clip) for clip in left_out],
        },
        "contenders": [contender.record() for contender in evaluation.contenders],
        "not_measured": _not_measured(evaluation, figures["scores"], len(measured)),
        **figures,
        "flat_fields": _all_flat_fields(evaluation.protocol, store, names),
        "examples": _examples(evaluation, store, rebuild, measured, figures["scores"]),
        "environment": _environment(evaluation),
    }
    store.write_results(results)
    return write_report(results, store.folder)


def _between(store: Store, name: str) -> Arrays:
    return store.read(name, BETWEEN) if store.has(name, BETWEEN) else {}


def _reasons(missing: list[dict[str, str]]) -> str:
    return "; ".join(f"{each['metric']}: {each['reason']}" for each in missing) + "."


def _not_measured(
    evaluation: "Evaluation", scores: dict[str, Any], count: int
) -> list[dict[str, str]]:
    """Metrics of the protocol that all or some of `count` clips lack, and why."""
    wanted = {METRICS[name] for name in evaluation.protocol.metrics}
    without_weights = {m for m in wanted if m.network and m.name not in evaluation.networks}
    missing = [
        {"metric": metric.label, "reason": "no weights were given for its network"}
        for metric in _by_name(without_weights)
    ]
    for metric in _by_name(wanted - without_weights):
        if metric.kind not in ("frames", "clip_features"):
            continue
        found = [own[metric.name]["clips"] for own in scores.values() if metric.name in own]
        have = min((count - own.count(None) for own in found if own is not None), default=0)
        if not found or (metric.kind == "frames" and have < count):
            where = f"{count - have} of {count} clips are" if found else "the clips are"
            reason = f"{where} too small or too short for it"
            missing.append({"metric": metric.label, "reason": reason})
    return (
        missing
        + _latents_not_measured(evaluation, scores)
        + _compatibility_not_measured(evaluation)
    )


def _latents_not_measured(evaluation: "Evaluation", scores: dict[str, Any]) -> list[dict[str, str]]:
    """Metrics of latents that no contender has a figure of, and why."""
    reasons = {
        "latent_spectrum": "latent frames of one value have no spectrum",
        "latent_motion": "the clips have a single latent frame, or latents that stand still",
        "velocity_variance": "it takes two clips whose latent frames have 2 x 2 latents",
        "interpolated": "it takes two clips of one size, and weights for fid or fvd",
    }
    found = {key for own in scores.values() for key in own}
    return [
        {"metric": METRICS[name].label, "reason": reason}
        for name, reason in reasons.items()
        if name in evaluation.protocol.metrics
        and not found & {figure.key for figure in METRICS[name].figures}
    ]


def _by_name(metrics: set[Metric]) -> list[Metric]:
    return sorted(metrics, key=lambda metric: metric.name)


def _compatibility_not_measured(evaluation: "Evaluation") -> list[dict[str, str]]:
    """Contenders whose compatibility is asked for and not measured, and why."""
    if "compatibility" not in evaluation.protocol.metrics:
        return []
    if evaluation.image_vae is None:
        return [{"metric": "compatibility", "reason": "no image VAE was given"}]
    reason = f"the image VAE has other latents, {evaluation.image_vae.latents}"
    return [
        {"metric": f"compatibility of {contender.name}", "reason": reason}
        for contender in evaluation.contenders
        if contender.kind == "VideoVAE" and not evaluation.is_paired(contender)
    ]


def _environment(evaluation: "Evaluation") -> dict[str, Any]:
    """Versions and devices of the process that writes the results. Clips may have been measured by
    others."""
    return {
        "command": shlex.join(sys.argv),
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "networks": {
            name: {"path": file.path, "sha256": file.sha256}
            for name, file in sorted(evaluation.networks.items())
        },
        "image_vae": evaluation.image_vae and evaluation.image_vae.record(),
        "versions": {
            "cvvae_jax": cvvae_jax.__version__,
            "commit": commit(),
            "python": platform.python_version(),
        }
        | {name: importlib.metadata.version(name) for name in _VERSIONS},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _all_flat_fields(protocol: Protocol, store: Store, names: Sequence[str]) -> dict[str, Any]:
    """By contender; empty where the protocol leaves them out."""
    return {name: _flat_fields(store, name) for name in names if protocol.flat_fields}


def _flat_fields(store: Store, name: str) -> dict[str, Any]:
    """A contender's entry on flat fields, with pictures."""
    arrays = store.read(name, FLAT_FIELDS)
    (store.folder / _MEDIA).mkdir(exist_ok=True)
    found = []
    shown = zip(_PICTURED, arrays["pictured"], arrays["picture"], strict=True)
    for what, number, errors in shown:
        levels, picture = as_picture(errors)
        media = f"{_MEDIA}/{name}_flat_{what}.png"
        Image.fromarray(picture).save(store.folder / media)
        found.append({"color": list(COLORS[number]), "levels": levels, "media": media})
    return summarize_flat_fields(arrays) | {"pictures": found}


def _examples(
    evaluation: "Evaluation",
    store: Store,
    rebuild: RebuildClips,
    measured: dict[int, ClipInfo],
    scores: dict[str, Any],
) -> list[dict[str, Any]]:
    """Clips of every model to look at: its worst and its best by PSNR."""
    numbers, found = list(measured), []
    for contender in evaluation.contenders:
        values = scores[contender.name].get("psnr", {}).get("clips")
        if contender.kind == "baseline" or not values:
            continue
        for why, i in _worst_and_best(values, evaluation.examples):
            clip = measured[numbers[i]]
            media = _media(contender, numbers[i], clip)
            if not (store.folder / media).exists():
                _write_example(evaluation.clips[numbers[i]], contender.name, rebuild, store, media)
            found.append(
                {
                    "contender": contender.name,
                    "clip": clip.name,
                    "why": why,
                    "psnr": values[i],
                    "frames": min(clip.frames, _EXAMPLE_FRAMES),
                    "media": media,
                }
            )
    shown = {example["media"] for example in found}
    for path in (store.folder / _MEDIA).glob("*.webm"):
        if f"{_MEDIA}/{path.name}" not in shown:
            path.unlink()
    return found


def _worst_and_best(values: list[float], count: int) -> list[tuple[str, int]]:
    """Indices of the lowest and of the highest values, `count` each, none of them twice."""
    order = [int(i) for i in np.argsort(values)]
    worst = order[: min(count, -(-len(order) // 2))]
    best = [i for i in order[::-1][:count] if i not in worst]
    return [("worst", i) for i in worst] + [("best", i) for i in best]


def _media(contender: Contender, number: int, clip: ClipInfo) -> str:
    """The path of an example's video; other weights or another clip give another name."""
    what = json.dumps([contender.record(), dataclasses.asdict(clip)], sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    return f"{_MEDIA}/{contender.name}_{number:06d}_{digest}.webm"


def _write_example(clip: Clip, name: str, rebuild: RebuildClips, store: Store, media: str) -> None:
    [recon] = rebuild(name, [clip])
    path = store.folder / media
    path.parent.mkdir(exist_ok=True)
    recon = recon if recon.dtype == np.uint8 else np.asarray(to_uint8(recon))
    shown = slice(_EXAMPLE_FRAMES)  # a page of whole videos would be too large
    write_example(path, clip.video[shown], recon[shown], fps=clip.info.fps)
