"""Image files in and out, as uint8 arrays (height, width, 3) of upright RGB pixels."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import (
    IMAGE_SUFFIXES,
    WRITABLE_IMAGE_SUFFIXES,
    partial_path,
    reason,
    require_file,
    require_suffix,
    resized,
)


def is_image(path: str | Path) -> bool:
    """Whether a path is read as an image; anything else is read as a video."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path, *, short_side: int | None = None) -> np.ndarray:
    """An image file as a uint8 array (height, width, 3), turned as its EXIF orientation says.

    Args:
        path: the file.
        short_side: pixels of the short side after an antialiased resize; None leaves the size.

    Raises:
        ConfigError: there is no such file, or it is no image.
    """
    path = Path(path)
    require_file(path)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):  # convert() would clip 16 bits to 8
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            image = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be read as an image: {error}.") from error
    height, width = resized(image.height, image.width, short_side)
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
