"""Views of clips as pictures: contact sheets and animations."""

import io

import numpy as np
from PIL import Image, ImageDraw

from cvvae_jax.frame_groups import repeat_to_frames
from cvvae_jax.models.inputs import to_uint8

_LABELS = {
    "input": "input",
    "recon": "reconstruction",
    "compat": "image decoder's view of the video latents",
}
_MARGIN = 4
_TEXT = 14
_SMALLEST = 128  # pixels of a frame on a contact sheet


def contact_sheet(
    views: dict[str, np.ndarray], *, temporal_compression: int, clips: int = 2
) -> Image.Image:
    """A picture with three rows of frames for every clip: input, reconstruction, and the image
    decoder's view of each latent frame, below the last video frame that it stands for.

    `views` are (n, t, h, w, 3) in [-1, 1]; small frames are enlarged by a whole factor.
    """
    _, t, h, w, _ = views["input"].shape
    zoom = max(1, _SMALLEST // h)
    shown = range(min(clips, len(views["input"])))
    rows = [(name, views[name][clip]) for clip in shown for name in _LABELS if name in views]
    step, row_height = zoom * w + _MARGIN, zoom * h + _MARGIN + _TEXT
    sheet = Image.new("RGB", (t * step + _MARGIN, len(rows) * row_height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (name, frames) in enumerate(rows):
        top = _MARGIN + r * row_height
        draw.text((_MARGIN, top), _LABELS[name], fill="black")
        stride = temporal_compression if len(frames) < t else 1
        for i, frame in enumerate(np.asarray(to_uint8(frames))):
            picture = Image.fromarray(frame).resize((zoom * w, zoom * h), Image.Resampling.NEAREST)
            sheet.paste(picture, (_MARGIN + i * stride * step, top + _TEXT))
    return sheet


def rows_shown(views: dict[str, np.ndarray]) -> str:
    """The rows of `side_by_side` in words, from above."""
    return ", ".join(label for name, label in _LABELS.items() if name in views)


def side_by_side(views: dict[str, np.ndarray]) -> np.ndarray:
    """The clips beside each other, in rows: inputs, reconstructions, and the image decoder's view
    where there is one.

    An image of the last row is repeated for all frames that its latent frame stands for, so that
    the rows show the same times.

    Args:
        views: (n, t, h, w, 3) in [-1, 1].

    Returns:
        Frames, uint8 (t, 2h or 3h, n w, 3).
    """
    rows = {name: views[name] for name in _LABELS if name in views}
    t = rows["input"].shape[1]
    if "compat" in rows and rows["compat"].shape[1] > 1:
        k = (t - 1) // (rows["compat"].shape[1] - 1)
        rows["compat"] = repeat_to_frames(rows["compat"], temporal_compression=k)
    strips = [np.concatenate(list(np.asarray(to_uint8(row))), axis=2) for row in rows.values()]
    return np.concatenate(strips, axis=1)


def gif(frames: np.ndarray, *, milliseconds: int = 125) -> bytes:
    """A GIF file that repeats uint8 frames (t, h, w, 3) for ever, as bytes."""
    buffer = io.BytesIO()
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
    )
    return buffer.getvalue()
