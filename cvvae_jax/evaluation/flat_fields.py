"""What contenders make of clips of one color, and what results say of it."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.contenders import Baseline, Contender, Model
from cvvae_jax.evaluation.metrics import Arrays
from cvvae_jax.evaluation.protocol import Protocol
from cvvae_jax.metrics.flat_fields import Grid, frequencies, structure
from cvvae_jax.metrics.time import levels_of
from cvvae_jax.models.inputs import to_float

_CORNERS = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
_GRAYS = [(level,) * 3 for level in (64, 128, 192)]
_MIXED = [(r, g, b) for r in (64, 192) for g in (64, 192) for b in (64, 192) if not r == g == b]
COLORS = tuple(_CORNERS + _GRAYS + _MIXED)
"""Red, green and blue of every flat field, 8-bit: the corners of the cube of colors, which include
black and white, three grays, and six colors between."""
MIDDLE = COLORS.index((128, 128, 128))
"""Number of the color in the middle, from which errors of any sign are seen."""

_SIDE = 16
"""Latents along a side of a flat field."""
_LEVELS = 127.5
"""8-bit levels in a unit of values in [-1, 1]."""
_LARGEST = 2**27
"""Values of the flat fields that go through a model at once, at most: 512 MiB."""

PARTS = (
    *("structure", "border", "lattice", "tile"),
    *("time", "first_frame", "group_phase", "chunk_phase"),
)
"""Kinds of structure, each a mean square; `metrics.flat_fields.structure` defines them."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A kind of error of flat fields, as a table names it."""

    key: str
    label: str
    description: str


FIGURES = (
    Part(
        "color",
        "Error of the color",
        "Root mean square, over colors and channels, of the mean error of a clip: a shift of the "
        "color, without any structure.",
    ),
    Part(
        "structure",
        "Structure",
        "Root mean square of all else: what isn't of one color in what comes back of one color.",
    ),
    Part(
        "border",
        "Borders",
        "In the outer two latents of the frame, beside the mean of its interior, less what the "
        "interior has itself.",
    ),
    Part(
        "lattice",
        "Lattice of latents",
        "What repeats with every latent across the frame's interior: blocks and checkerboards.",
    ),
    Part(
        "tile",
        "Tiles",
        "Steps across the borders of tiles, less those beside them. Only where the protocol names "
        "tiles of a size.",
    ),
    Part("time", "Over time", "What changes from frame to frame, of any kind."),
    Part("first_frame", "First frame", "Between the first frame and the mean of all others."),
    Part(
        "group_phase",
        "Phase of the latent frame",
        "What repeats with every latent frame: by a frame's place among those of its latent frame.",
    ),
    Part(
        "chunk_phase",
        "Phase of the chunk",
        "What repeats with every chunk, beyond what repeats with every latent frame.",
    ),
)
"""What results have of every contender, in 8-bit levels, in the order of tables."""


def shape(contender: Contender, protocol: Protocol) -> tuple[int, int]:
    """Frames, and height and width in pixels, of a contender's flat fields.

    Two chunks after the first frame, or as many frames as the protocol's clips have where these are
    fewer; 16 latents along a side, or one and a half of the tiles that the protocol names.
    """
    frames = 1 + 2 * protocol.chunk_frames
    if protocol.media == "image":
        frames = 1
    elif protocol.frames is not None:
        frames = min(frames, protocol.frames)
    latents = _SIDE
    if isinstance(protocol.tile, int):
        latents = max(latents, -(-3 * protocol.tile // (2 * contender.spatial_compression)))
    return frames, latents * contender.spatial_compression


def measure_flat_fields(
    opened: Model | Baseline, contender: Contender, protocol: Protocol
) -> Arrays:
    """A contender's flat fields, taken apart; reconstructions are clipped, but not rounded to 8
    bits, so that what is fainter than a level is seen too.

    Args:
        opened: what is measured.
        contender: what it is.
        protocol: how videos go through it.

    Returns:
        What `metrics.flat_fields.structure` gives, with an axis of colors in front; and
        `picture` (2, h, w, 3), the mean over time of the error without its mean, of the color that
        `pictured` (2,) numbers: the one in the middle, and the one of the most structure; `frames`
        () of a clip; `frequencies` (f,) of the spectrum.

    Raises:
        UserError: pixels come back that are no numbers.
    """
    frames, side = shape(contender, protocol)
    colors = np.asarray(to_float(np.array(COLORS, np.uint8)))
    batch = max(1, _LARGEST // (frames * side * side * 3))
    found, pictures = [], []
    for start in range(0, len(colors), batch):
        some = colors[start : start + batch, None, None, None]
        videos = np.broadcast_to(some, (len(some), frames, side, side, 3)).copy()
        rows, columns = opened.tile_borders(videos)
        recons = opened.rebuild(videos)
        if not np.isfinite(recons).all():
            raise UserError(f"{contender.name} gives pixels that are no numbers of a flat field.")
        grid = Grid(
            lattice=contender.spatial_compression,
            group=contender.temporal_compression,
            chunk=protocol.chunk_frames,
            rows=rows,
            columns=columns,
        )
        for recon, color in zip(recons, colors[start : start + batch], strict=True):
            found.append(structure(recon, color, grid))
            still = recon.mean(axis=0, dtype=np.float64)
            pictures.append((still - still.mean(axis=(0, 1))).astype(np.float16))
    arrays = {name: np.stack([each[name] for each in found]) for name in found[0]}
    pictured = np.array([MIDDLE, int(np.argmax(arrays["structure"]))])
    picture = np.stack([pictures[number] for number in pictured])
    return arrays | {
        "pictured": pictured,
        "picture": picture,
        "frames": np.array(frames),
        "frequencies": frequencies(side - 2 * grid.band),
    }


def summarize_flat_fields(arrays: Arrays) -> dict[str, Any]:
    """What results say of a contender's flat fields: numbers, or None for what isn't there.

    - `frames`, `side`: of the clips, in pixels; `colors`: red, green and blue of each, 8-bit.
    - every key of `FIGURES`: root mean square over the colors, in 8-bit levels.
    - `by_color`: the same for every color; of `color` the mean error's red, green and blue.
    - `by_frame`: `structure` frame by frame, over the colors.
    - `spectrum`: `frequencies` in cycles per pixel and `power` in squared levels, over the colors.
    """
    squares = {"color": np.square(arrays["color"]).mean(axis=1)}
    squares |= {name: arrays[name] for name in PARTS}
    spectrum = arrays["spectrum"].mean(axis=0)
    return {
        "frames": int(arrays["frames"]),
        "side": arrays["picture"].shape[1],
        "colors": [list(color) for color in COLORS],
        **{name: _number(levels_of(values.mean())) for name, values in squares.items()},
        "by_color": {
            "color": (_LEVELS * arrays["color"]).tolist(),
            **{name: [_number(x) for x in levels_of(arrays[name])] for name in PARTS},
        },
        "by_frame": [_number(x) for x in levels_of(arrays["by_frame"].mean(axis=0))],
        "spectrum": {
            "frequencies": arrays["frequencies"].tolist(),
            "power": (_LEVELS**2 * spectrum).tolist(),
        },
    }


def as_picture(errors: Float[np.ndarray, "h w 3"]) -> tuple[int, UInt8[np.ndarray, "h w 3"]]:
    """Errors as a picture: none is gray, and so many 8-bit levels or more, a power of two, are
    black or white. One value in a hundred may lie beyond."""
    levels = _LEVELS * errors.astype(np.float64)
    scale = 2 ** int(np.ceil(np.log2(max(np.percentile(np.abs(levels), 99), 1.0))))
    return scale, np.round(127.5 + 127.5 * np.clip(levels / scale, -1, 1)).astype(np.uint8)


def _number(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
