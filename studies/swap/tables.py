"""The study's tables, as text: every seed, floors, and the verdict."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import spearmanr, t

from studies.swap import rule
from studies.swap.results import Results
from studies.swap.settings import KINDS, Kind
from studies.swap.tuning import steps_to

WAYS = {
    "image_scale": "E_i's scale",
    "own_scale": "own scale",
    "channel_map": "mapped, each channel",
    "map": "mapped, 1 x 1",
    "rescaled_map": "mapped, rescaled",
}
"""Ways to give a VAE's latents to the frozen model."""
PREDICTORS = {
    "Ev-Di PSNR": lambda found: -found["reconstruction"]["Ev-Di"],
    "distance": lambda found: found["latents"]["distance"],
    "Frechet distance": lambda found: found["latents"]["frechet"],
    "MMD": lambda found: found["latents"]["mmd"],
    "principal angle": lambda found: found["latents"]["principal_angle"],
    "velocity variance": lambda found: found["latents"]["velocity_variance"],
    "fine detail": lambda found: found["latents"]["fine_detail"],
    "Ev-Dv PSNR": lambda found: -found["reconstruction"]["Ev-Dv"],
}
"""Cheap numbers that might tell the gap, turned so that more is held to be worse."""


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> str:
    """A table in Markdown, with a title and a note."""
    lines = [f"### {title}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([*lines, "", *([note, ""] if note else [])])


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
        case bool():
            return "yes" if value else "no"
    return str(value)


def interval(values: Sequence[float]) -> str:
    """The mean over seeds, with its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 3:
        return _cell(mean)
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{_cell(mean)} (± {_cell(float(half))})"


def all_tables(results: Results) -> str:
    """All tables, the verdict first."""
    made = (verdicts, models, gaps, gaps_by_level, images, videos, tuned, predictors)
    return "\n".join(make(results) for make in made)


def verdicts(results: Results) -> str:
    """The conditions of the rule for every seed, and the claim's verdict."""
    judged = results.judged()
    names = list(next(iter(judged.values())).conditions)
    rows = [
        [seed, *found.conditions.values(), found.plateau, found.equal, found.verdict]
        for seed, found in judged.items()
    ]
    claim = rule.claim([found.verdict for found in judged.values()])
    head = ["seed", *names, "plateau", "equal models", "verdict"]
    return table(f"The claim: {claim}", head, rows, "By the rule of README.md.")


def models(results: Results) -> str:
    """Reconstruction, plateau and distance of all VAEs."""
    rows = []
    for (seed, kind), found in results.of_vae.items():
        reconstruction, scores = found["reconstruction"], results.psnr[seed, kind]
        rows.append(
            [
                *(seed, results.settings.images[seed], kind),
                *(reconstruction["Ev-Dv"], reconstruction["Ev-Di"]),
                *(rule.rise(scores), found["latents"]["distance"]),
            ]
        )
    head = ["seed", "image VAE", "VAE", "Ev-Dv, dB", "Ev-Di, dB", "rise, dB", "distance"]
    note = "Distance of latents from E_i's, in their deviations; unrelated latents have 1.41."
    return table("The video VAEs", head, rows, note)


def gaps(results: Results) -> str:
    """The denoising gap of every seed, with the floor."""
    head = ["seed", "L(E_i)", "linear", "floor F"]
    head += [f"{kind}, {name}" for kind in KINDS for name in WAYS.values()]
    rows = []
    for seed, own in results.of_seed.items():
        numbers = [results.gap(seed, kind, way) for kind in KINDS for way in WAYS]
        linear = own["gaussian_velocity"]
        rows.append([seed, results.loss(seed), linear, results.floor(seed), *numbers])
    means = [
        interval([results.gap(seed, kind, way) for seed in results.of_seed])
        for kind in KINDS
        for way in WAYS
    ]
    rows.append(["all", "", "", "", *means])
    note = "A gap is the absolute difference of the frozen model's losses on E_v's and on E_i's"
    note += " latents, averaged over levels of noise. `linear`: what the best linear model of 2 x 2"
    note += " latents is left with, over all levels of noise."
    return table("Denoising gap", head, rows, note)


def gaps_by_level(results: Results) -> str:
    """Means over seeds of the difference of losses, with its sign, at every level of noise."""
    rows = []
    for kind in KINDS:
        for way, name in WAYS.items():
            of_seeds = [results.differences(seed, kind, way) for seed in results.of_seed]
            rows.append([kind, name, *map(float, np.mean(of_seeds, axis=0))])
    levels = [f"{(k + 1) / 10:.1f}" for k in range(len(rows[0]) - 2)]
    return table("Difference of losses by level of noise", ["VAE", "latents", *levels], rows)


def _shown(found: dict) -> list[object]:
    distance, accuracy = found["distance"], found["accuracy"]
    kinds = ("shape", "color", "motion")
    return [distance["frames"], distance.get("clips"), *(accuracy.get(kind) for kind in kinds)]


def images(results: Results) -> str:
    """Samples of the frozen image model, through each decoder."""
    rows = []
    for seed, own in results.of_seed.items():
        rows.append([seed, "real, other clips", *_shown(own["floor"]), ""])
        rows.append([seed, "D_i", *_shown(own["images"]), ""])
        rows.append([seed, "D_i, denoised from half-way", *_shown(own["halfway"]), ""])
        for kind in KINDS:
            found = results.of_vae[seed, kind]
            for way, through in found["samples"].items():
                shift = ", ".join(f"{value:.1f}" for value in through["color_shift"])
                rows.append([seed, f"{kind}, {WAYS[way]}", *_shown(through["images"]), shift])
            rows.append([seed, f"{kind}, denoised from half-way", *_shown(found["halfway"]), ""])
    head = ["seed", "decoded by", "distance", "of clips", "shape", "color", "motion", "color shift"]
    note = "Frechet distances in units of the variance of real features. `Half-way`: E_v's latents,"
    note += " noised to 0.5, denoised by the frozen model and decoded by D_v. Color shift: red,"
    note += " green, blue against D_i, in 8-bit levels."
    return table("Samples of the image model", head, rows, note)


def videos(results: Results) -> str:
    """Samples of the frozen video model, through each decoder."""
    rows = []
    for seed, own in results.of_seed.items():
        rows.append(
            [seed, "real, other clips", *_shown(own["floor"]), *_motion(own["real_motion"])]
        )
        rows.append([seed, "D_i, key frames alone", *_shown(own["key_frames"]), "", ""])
        filled = own["interpolated"]
        rows.append([seed, "D_i, linear interpolation", *_shown(filled), *_motion(filled)])
        for kind in KINDS:
            for way, through in results.of_vae[seed, kind]["samples"].items():
                found = through["videos"]
                name = f"D_v of {kind}, {WAYS[way]}"
                rows.append([seed, name, *_shown(found), *_motion(found)])
    head = ["seed", "decoded by", "distance", "of clips", "shape", "color", "motion"]
    head += ["fast change", "tooth of four"]
    note = (
        "Fast change: share of the variance over time at a quarter cycle a frame and above. Tooth:"
    )
    note += " mean change from frame to frame by its place in a group, over the mean of all."
    return table("Samples of the video model", head, rows, note)


def _motion(found: dict) -> list[object]:
    return [found["fast_change"], ", ".join(f"{value:.2f}" for value in found["tooth"])]


def tuned(results: Results) -> str:
    """Steps of tuning to the goal, and the losses before and after."""
    rows = []
    for (seed, kind), found in results.tuning.items():
        for part in results.settings.tuned:
            course = found[part]
            reached = steps_to(found["goal"], course)
            rows.append(
                [
                    *(seed, kind, part, course["parameters"]),
                    *(course["loss"][0], course["loss"][-1], found["goal"]),
                    "never" if reached is None else reached,
                ]
            )
    head = ["seed", "VAE", "part", "parameters", "loss before", "after", "goal", "steps to goal"]
    note = "Goal: 1.05 of the video model's own loss on E_i's latents."
    return table("Tuning the video model to E_v's latents", head, rows, note)


def predictors(results: Results) -> str:
    """Study 2 in small: rank correlations of cheap numbers with the gap, and with each kind of VAE
    left out in turn."""
    rows = []
    for name, value in PREDICTORS.items():
        of_all = [_rank(results, value, None), *(_rank(results, value, kind) for kind in KINDS)]
        rows.append([name, *of_all])
    head = ["number", "all VAEs", *(f"without {kind}" for kind in KINDS)]
    note = "Spearman's rank correlation with the gap at E_i's scale; 1: tells the order exactly."
    return table("Which cheap number tells the gap", head, rows, note)


def _rank(results: Results, value, left_out: Kind | None) -> float | None:
    pairs = [pair for pair in results.of_vae if pair[1] != left_out]
    found = [value(results.of_vae[pair]) for pair in pairs]
    gaps_found = [results.gap(*pair, "image_scale") for pair in pairs]
    if min(len(set(found)), len(set(gaps_found))) < 2:
        return None  # there is no order to tell
    return float(spearmanr(found, gaps_found).statistic)
