"""Plots of latents: channels of both encoders, and how far they are apart frame by frame."""

from cvvae_jax.evaluation.report.plots import Curve, Plot, channels, lines, position_names

_BY_POSITION = {
    "kl_by_position": (
        "KL divergence by position in the group",
        "From the posterior of a group’s latent frame, by the video encoder, to that of each frame "
        "of the group, by the image encoder: low for the frame that the latents stand for.",
        "nats per latent value",
    ),
    "distance_by_position": (
        "Distance of latents by position in the group",
        "Root mean squared difference of the same posteriors’ means, in standard deviations of the "
        "image VAE’s latents.",
        "standard deviations",
    ),
}


def plots(found: dict[str, dict], order: list[str]) -> list[Plot]:
    """Those plots that there are values for.

    Args:
        found: each contender's entry.
        order: names of all contenders, whose numbers choose the colors.
    """
    latents = {name: entry.get("latents") or {} for name, entry in found.items()}
    made = _of_channels(latents, order)
    for key, (title, caption, unit) in _BY_POSITION.items():
        curves = [
            Curve(order.index(name), entry[key])
            for name, entry in latents.items()
            if entry.get(key)
        ]
        if not any(value is not None for curve in curves for value in curve.values):
            continue
        ticks = position_names(max(len(curve.values) for curve in curves))
        drawn = lines(
            curves,
            name=key.replace("_", "-"),
            label=title,
            x_label="frame of the group",
            y_label=unit,
            dots=True,
            ticks=ticks,
        )
        made.append(Plot(title, caption, drawn))
    return made


def _of_channels(latents: dict[str, dict], order: list[str]) -> list[Plot]:
    limits = _limits([row for entry in latents.values() for row in entry.get("channels") or []])
    made = []
    for name, entry in latents.items():
        if not entry.get("channels"):
            continue
        color, title = order.index(name), f"Latent channels of {name}"
        caption = (
            "Mean ± one standard deviation of every channel: the image encoder’s in gray, the "
            f"video encoder’s of {name} in color."
        )
        drawn = channels(
            entry["channels"],
            color=color,
            limits=limits,
            name=f"channels-{color}",
            label=title,
        )
        made.append(Plot(title, caption, drawn))
    return made


def _limits(rows: list[dict]) -> tuple[float | int, float | int]:
    """What the channels of all contenders lie in, so that their plots compare."""
    ends = [0.0]
    for row in rows:
        for encoder in ("video", "image"):
            mean, std = row.get(f"mean_{encoder}"), row.get(f"std_{encoder}")
            if mean is not None:
                ends += [mean - (std or 0), mean + (std or 0)]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin
