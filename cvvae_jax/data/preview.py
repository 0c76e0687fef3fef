"""A picture of the first clips of each bucket of a recipe, as rows of frames."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from cvvae_jax.config import Bucket, DataConfig, StageConfig
from cvvae_jax.data.pipeline import bucket_records

_MARGIN, _TEXT = 6, 16
_FRAMES = 9  # shown per clip, at most
_HEIGHT = 128  # pixels of a frame on the picture


def preview(stage: StageConfig, data: DataConfig, *, seed: int, clips: int) -> Image.Image:
    """A picture of the first clips of every bucket.

    Args:
        stage: the stage whose buckets are shown.
        data: where clips come from, and how they are cut.
        seed: seed of the stream of clips.
        clips: number of clips per bucket, at most the bucket's batch.

    Raises:
        UserError: as `pipeline.bucket_records`.
    """
    total = sum(bucket.weight for bucket in stage.buckets)
    sections = [
        _section(
            _title(bucket, total),
            np.stack([records[i]["video"] for i in range(min(clips, bucket.batch))]),
        )
        for bucket, records in zip(stage.buckets, bucket_records(stage, data, seed), strict=True)
    ]
    width = max(section.width for section in sections)
    sheet = Image.new("RGB", (width, sum(section.height for section in sections)), "white")
    top = 0
    for section in sections:
        sheet.paste(section, (0, top))
        top += section.height
    return sheet


def _title(bucket: Bucket, total: float) -> str:
    what = "images" if bucket.frames == 1 else f"clips of {bucket.frames} frames"
    share = 100 * bucket.weight / total
    return f"{what} of {bucket.height} x {bucket.width}, {share:.0f} % of the steps"


def _section(title: str, clips: np.ndarray) -> Image.Image:
    """Rows of evenly spaced frames below a title, a row per clip; images share one row."""
    rows = list(_rows(clips))
    height, width = _HEIGHT, max(1, round(_HEIGHT * clips.shape[3] / clips.shape[2]))
    columns = max(len(row) for row in rows)
    size = (
        max(columns * (width + _MARGIN) + _MARGIN, 480),
        _TEXT + 2 * _MARGIN + len(rows) * (height + _MARGIN),
    )
    sheet = Image.new("RGB", size, "white")
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN), title, fill="black")
    for r, row in enumerate(rows):
        top = _TEXT + 2 * _MARGIN + r * (height + _MARGIN)
        for i, frame in enumerate(row):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
            sheet.paste(picture, (_MARGIN + i * (width + _MARGIN), top))
    return sheet


def _rows(clips: np.ndarray) -> Iterator[np.ndarray]:
    count = clips.shape[1]
    if count == 1:
        yield clips[:, 0]
        return
    shown = np.unique(np.linspace(0, count - 1, min(count, _FRAMES)).round().astype(int))
    for clip in clips:
        yield clip[shown]
