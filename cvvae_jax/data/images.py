"""Image files in and out, as uint8 arrays (height, width, 3) of upright RGB pixels."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import (
    IMAGE_SUFFIXES,
    WRITABLE_IMAGE_SUFFIXES,
    partial_path,
    reason,
    require_file,
    require_pixels,
    require_suffix,
    resized,
    suffix,
)
from cvvae_jax.data.media import Blob, MediaFile


def is_image(file: MediaFile) -> bool:
    """Whether a file is read as an image, by its suffix; anything else is read as a video."""
    return suffix(file) in IMAGE_SUFFIXES


def read_image(
    file: MediaFile, *, short_side: int | None = None, cover: tuple[int, int] | None = None
) -> np.ndarray:
    """An image file as a uint8 array (height, width, 3), turned as its EXIF orientation says.

    Args:
        file: the file; an alpha channel is dropped, and the first frame of several is taken.
        short_side: pixels of the short side after an antialiased resize.
        cover: (height, width) that the resize reaches at least.

    Raises:
        ConfigError: there is no such file, it is no image, or has more than 2^26 pixels.
    """
    require_file(file)
    try:
        with Image.open(io.BytesIO(file.data) if isinstance(file, Blob) else file) as opened:
            require_pixels(file, opened.height, opened.width)
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # convert() would clip 16 bits to 8
                image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
            image = image.convert("RGB")
    except ConfigError:
        raise
    except UnidentifiedImageError as error:
        raise ConfigError(
            f"{file} cannot be read as an image: it is damaged, or of no known format."
        ) from error
    except Exception as error:  # decoders raise whatever they stumble over in damaged data
        raise ConfigError(f"{file} cannot be read as an image: {error}.") from error
    height, width = resized(image.height, image.width, short_side=short_side, cover=cover)
    require_pixels(file, height, width)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def write_image(path: str | Path, frame: np.ndarray) -> None:
    """Write a uint8 frame (height, width, 3) as PNG, JPEG or WebP, by the suffix of the path.

    Raises:
        ConfigError: the suffix is none of WRITABLE_IMAGE_SUFFIXES, or the file cannot be written.
    """
    path = Path(path)
    require_suffix(path, WRITABLE_IMAGE_SUFFIXES)
    partial = partial_path(path)
    try:
        Image.fromarray(frame).save(partial, quality=95)
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {reason(error)}.") from error
    finally:
        partial.unlink(missing_ok=True)
