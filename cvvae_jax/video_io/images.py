"""Reads and writes image files as uint8 arrays (height, width, 3) of upright RGB pixels."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cvvae_jax.config.places import at_home
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import written_aside
from cvvae_jax.video_io.containers import (
    IMAGE_SUFFIXES,
    WRITABLE_IMAGE_SUFFIXES,
    reason,
    require_file,
    require_pixels,
    require_suffix,
    resized,
    suffix,
)
from cvvae_jax.video_io.media_types import Blob, MediaFile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are read, whatever the suffix. By default Pillow goes by the
content and reads some fifty more formats; for PostScript it even starts a program."""

# Numbers of TIFF tags.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 259, 262, 284, 339
_UNCOMPRESSED, _WHITE_IS_ZERO, _APART, _SIGNED = 1, 0, 2, 2


def is_image(file: MediaFile) -> bool:
    """Whether a file is read as an image, by its suffix; any other file is read as a video."""
    return suffix(file) in IMAGE_SUFFIXES


def read_image(
    file: MediaFile, *, short_side: int | None = None, cover: tuple[int, int] | None = None
) -> np.ndarray:
    """An image file as a uint8 array (height, width, 3), turned as its EXIF orientation says.

    Samples of up to 16 bits are reduced to 8. Floating-point samples that all lie in [0, 1] have
    black at 0 and white at 1; whole numbers up to 255 are taken as 8-bit samples. Color profiles
    are not applied.

    Args:
        file: the file, in one of FORMATS; an alpha channel is dropped, and the first frame of
            several is taken.
        short_side: pixels of the short side after an antialiased resize.
        cover: (height, width) that the resize reaches at least.

    Raises:
        UserError: there is no such file, it is not an image of these formats, is damaged, has more
            than 2^26 pixels, or has samples whose black and white are unknown.
    """
    file = require_file(file)
    try:
        source = io.BytesIO(file.data) if isinstance(file, Blob) else file
        with Image.open(source, formats=FORMATS) as opened:
            require_pixels(file, opened.height, opened.width)
            _require_read_right(file, opened)
            image = ImageOps.exif_transpose(opened)
            image = _in_8_bits(file, image, getattr(opened, "tag_v2", {})).convert("RGB")
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{file} cannot be read as an image (PNG, JPEG, WebP, BMP, TIFF and AVIF are read): it "
            "is damaged, or of no known format."
        ) from error
    except Exception as error:  # decoders raise whatever they stumble over in damaged data
        raise UserError(f"{file} cannot be read as an image: {error}.") from error
    height, width = resized(image.height, image.width, short_side=short_side, cover=cover)
    require_pixels(file, height, width)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _require_read_right(file: MediaFile, image: Image.Image) -> None:
    """Refuses two kinds of TIFF whose bytes Pillow reads in the wrong order."""
    tags = getattr(image, "tag_v2", {})
    compressed = tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED
    deep = max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8
    kind = None
    if tags.get(_PLANES) == _APART and deep and not compressed:
        kind = "uncompressed planes of more than 8 bits"
    elif image.mode == "F" and tags.prefix == b"MM" and compressed:
        kind = "compressed big-endian floating-point samples"
    if kind:
        raise UserError(f"{file} is a TIFF of {kind}, which are not read; save it in another way.")


def _in_8_bits(file: MediaFile, image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """The image with 8-bit samples; Pillow's `convert` would clip larger samples at 255.

    Args:
        file: the file, for messages.
        image: the image.
        tags: the tags of a TIFF; empty for other formats.
    """
    (sample_format, *_) = tags.get(_SAMPLE_FORMAT, (1,))
    if image.mode == "I" or sample_format == _SIGNED:
        raise UserError(
            f"{file} has samples that are signed or of 32 bits, and nothing says which of them are "
            "black and white; accepted are unsigned ones of up to 16 bits, and floating-point ones."
        )
    if image.mode == "La":  # grey premultiplied by alpha, which `convert` takes to "LA" only
        return image.convert("LA")
    if image.mode == "F":
        samples = _between_0_and_1(file, np.asarray(image))
    elif image.mode.startswith("I;16"):
        (bits, *_) = tags.get(_BITS_PER_SAMPLE, (16,))
        samples = np.asarray(image, np.float32) / (2**bits - 1)
    else:
        return image
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts only samples of up to 8 bits
        samples = 1 - samples
    return Image.fromarray((255 * samples).round().astype(np.uint8))


def _between_0_and_1(file: MediaFile, samples: np.ndarray) -> np.ndarray:
    """Floating-point samples, scaled so that black is 0 and white is 1."""
    lowest, highest = samples.min(), samples.max()
    if lowest >= 0 and highest <= 1:
        return samples
    if lowest >= 0 and highest <= 255 and (samples == samples.round()).all():
        return samples / 255
    raise UserError(
        f"{file} has floating-point samples from {lowest:g} to {highest:g}; accepted are those "
        "from 0 to 1, and whole numbers from 0 to 255."
    )


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write a uint8 frame (height, width, 3) as PNG, JPEG or WebP, by the suffix of the path.

    Raises:
        UserError: the suffix is none of WRITABLE_IMAGE_SUFFIXES, or the file cannot be written.
    """
    path = Path(at_home(path))
    require_suffix(path, WRITABLE_IMAGE_SUFFIXES)
    try:
        with written_aside(path) as aside:
            Image.fromarray(frame).save(aside, quality=95)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}.") from error
