"""Tables of compatibility: a row a quantity, a column a contender, and what each quantity is."""

import dataclasses

from markupsafe import Markup

from cvvae_jax.evaluation.report import numbers
from cvvae_jax.evaluation.report.numbers import display, flattened

_MAPPINGS = {
    "first": "Against the first frame of each group.",
    "slice": "Against the key frame, the last one of each group.",
    "mean": "Against the mean of each group’s frames.",
    "random": "Against a random frame of each group.",
}
_DISTANCES = {
    "kl": (
        "KL divergence",
        "From the video encoder’s posterior to the image encoder’s of the key frame, closed form, "
        "in nats per latent value; 0 for equal posteriors.",
    ),
    "distance": (
        "Distance of means",
        "Root mean squared difference of the two posteriors’ means at key frames, in standard "
        "deviations of the image VAE’s latents.",
    ),
    "frechet": (
        "Fréchet distance",
        "Between the distributions of latent patches: the video encoder’s of one half of the "
        "clips, the image encoder’s of the other half.",
    ),
    "frechet_within": (
        "Fréchet distance within",
        "The same between the image encoder’s latents of both halves: what equal encoders get.",
    ),
    "frechet_same_clips": (
        "Fréchet distance, same clips",
        "Between the two encoders’ patches of all clips; 0 for equal latents.",
    ),
    "mmd": (
        "MMD",
        "Maximum mean discrepancy (squared, unbiased) between the same halves as of the Fréchet "
        "distance; it may fall slightly below 0.",
    ),
    "mmd_within": (
        "MMD within",
        "The same between the image encoder’s latents of both halves: what equal encoders get.",
    ),
    "principal_angle": (
        "Principal angle",
        "Mean angle, in degrees, between the main directions of the same halves’ patches, those "
        "that hold 90 % of the variance.",
    ),
    "principal_angle_within": (
        "Principal angle within",
        "The same between the image encoder’s latents of both halves: what equal encoders get.",
    ),
}
_PROBES = {
    "image_from_video": (
        "R² of image latents",
        "Share of the variance that a linear map from the video encoder’s latents explains, "
        "fitted on half of the clips and tested on the other; 1 is perfect.",
    ),
    "video_from_image": (
        "R² of video latents",
        "Share of the variance that a linear map from the image encoder’s latents explains, "
        "fitted on half of the clips and tested on the other; 1 is perfect.",
    ),
}
_LIPSCHITZ = {
    "distance": ("Distance of latents", "Of the two encoders’ latents of a frame."),
    "loss": ("Error of the image decoder", "On the video encoder’s latents, against the frame."),
    "image_error": ("Its error on its own latents", "Against the frame."),
    "chord": (
        "Stretch between the two latents",
        "Distance of the two images by the distance of the two latents.",
    ),
    "path": (
        "Stretch along the way between them",
        "Length of the curve of images by the distance of the two latents.",
    ),
    "largest": ("Largest stretch", "Of the image decoder, in any direction, at points on the way."),
    "least": ("Least stretch", "Of the image decoder, in any direction, at points on the way."),
    "typical": ("Typical stretch", "Root mean square over directions, at points on the way."),
    "loss_bound": (
        "Bound of the error",
        "Error on its own latents + largest stretch × distance of latents.",
    ),
    "path_bound": (
        "Bound of the error by the way",
        "Error on its own latents + stretch along the way × distance of latents.",
    ),
    "within_bound": ("Share of clips within the bound", "1 where the bound holds for all."),
    "distance_bound": (
        "Bound of the distance",
        "(Error + error on its own latents) ÷ least stretch: so far apart latents may be though "
        "the error is small.",
    ),
}


@dataclasses.dataclass(frozen=True)
class QuantityRow:
    """A named quantity and, for each contender, its text and smaller ones below it."""

    label: Markup | str
    help: str
    cells: list[tuple[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, a remark beside it, and rows."""

    title: str
    remark: str
    rows: list[QuantityRow]


class Scores:
    """How scores of several metrics are written: the main one, and the others with their names."""

    def __init__(self, metrics: list[dict], found: set[str]):
        """Set up names and digits.

        Args:
            metrics: of the results; their order is kept, and the first one found is the main one.
            found: keys of the metrics there are scores of.
        """
        self._metrics = {metric["key"]: metric for metric in metrics}
        known = [key for key in self._metrics if key in found]
        self._order = [*known, *sorted(found - set(known))]

    @property
    def main(self) -> str | None:
        """Key of the main metric; None without any."""
        return self._order[0] if self._order else None

    @property
    def unit(self) -> str:
        """The word after a value of the main metric: its unit, or else its name."""
        return self._metrics.get(self.main, {}).get("unit") or self.label(self.main)

    @property
    def lower_is_better(self) -> bool:
        """Whether the main metric is one of errors."""
        return self._metrics.get(self.main, {}).get("better") == "lower"

    def label(self, key: str | None) -> str:
        """A metric's name."""
        return self._metrics[key]["label"] if key in self._metrics else str(key).replace("_", " ")

    def text(self, key: str | None, value: numbers.Number) -> str:
        """A value of a metric."""
        if key in self._metrics:
            return numbers.fixed(value, self._metrics[key]["digits"])
        return numbers.significant(value)

    def others(self, scores: dict[str, numbers.Number]) -> list[str]:
        """All scores but the main one, each with its name."""
        keys = [key for key in self._order[1:] if key in scores]
        return [f"{self.label(key)} {self.text(key, scores[key])}" for key in keys]


def tables(entries: list[dict], scores: Scores) -> list[Table]:
    """The tables that some contender's entry has values for."""
    latents = [entry.get("latents") or {} for entry in entries]
    probes = [each.get("probe_r2") or {} for each in latents]
    lipschitz = [entry.get("lipschitz") or {} for entry in entries]
    what = scores.label(scores.main)
    found = [
        Table(
            "Which frame the image decoder shows",
            f"{what} of its images of video latents, one a group, against a frame of that group.",
            _mapping_rows([entry.get("mappings") or {} for entry in entries], scores),
        ),
        Table(
            "Which frame the video decoder shows",
            "The same of the video decoder in image mode, every latent frame alone.",
            _mapping_rows([e.get("mappings_video_decoder") or {} for e in entries], scores),
        ),
        Table(
            "Distance between the latents of both encoders",
            "Patches are in standard deviations of the image VAE’s latents.",
            _rows(latents, _DISTANCES) + _rows(probes, _PROBES),
        ),
        Table(
            "Color shift",
            "Mean of output minus input, in 8-bit levels.",
            _shift_rows([entry.get("color_shift") or {} for entry in entries]),
        ),
        Table(
            "From latents to images: stretch of the image decoder",
            "Of one frame a clip; lengths are roots of mean squares, pixels in [−1, 1].",
            _rows(lipschitz, _LIPSCHITZ) + _other_rows(lipschitz),
        ),
    ]
    return [table for table in found if table.rows]


def pair_name(pair: str) -> Markup:
    """`Ev-Di` as encoder and decoder with their indices."""
    part = Markup("<i>{}</i><sub>{}</sub>")
    return Markup(" → ").join(part.format(name[:1], name[1:]) for name in pair.split("-"))


def _keys(parts: list[dict]) -> list[str]:
    """Keys of several dictionaries, in the order in which they first appear."""
    return list(dict.fromkeys(key for part in parts for key in part))


def _mapping_rows(parts: list[dict], scores: Scores) -> list[QuantityRow]:
    rows = []
    for mapping in _keys(parts):
        found = [part.get(mapping) or {} for part in parts]
        cells = [(scores.text(scores.main, x.get(scores.main)), scores.others(x)) for x in found]
        rows.append(QuantityRow(mapping, _MAPPINGS.get(mapping, ""), cells))
    return rows


def _rows(parts: list[dict], names: dict[str, tuple[str, str]]) -> list[QuantityRow]:
    return [
        QuantityRow(label, text, [(numbers.significant(part.get(key)), []) for part in parts])
        for key, (label, text) in names.items()
        if any(part.get(key) is not None for part in parts)
    ]


def _other_rows(parts: list[dict]) -> list[QuantityRow]:
    """Figures that the page has no names for."""
    flat = [flattened(part) for part in parts]
    keys = [key for key in _keys(flat) if key not in _LIPSCHITZ]
    return [
        QuantityRow(key.replace("_", " "), "", [(_figure(part.get(key)), []) for part in flat])
        for key in keys
    ]


def _figure(value) -> str:
    return numbers.significant(value) if type(value) in (int, float) else display(value)


def _shift_rows(parts: list[dict]) -> list[QuantityRow]:
    rows = []
    for pair in _keys(parts):
        texts = [[numbers.signed(value, 2) for value in part.get(pair) or []] for part in parts]
        cells = [(_color(text) if text else numbers.MISSING, []) for text in texts]
        rows.append(QuantityRow(pair_name(pair), "", cells))
    return rows


def _color(texts: list[str]) -> Markup:
    channel = Markup('<span class="channel"><small>{}</small> {}</span>')
    return Markup(" ").join(map(channel.format, "RGB", texts))
