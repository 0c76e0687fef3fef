"""Records of ArrayRecord shards: a media file, alone or in a tf.train.Example."""

import dataclasses
from typing import Any

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import IMAGE_SUFFIXES, media_suffix
from cvvae_jax.video_io.media_types import MediaKind

BEGUN = "prepare.json"
"""The file beside shards of `data prepare` with their source and settings."""
COMPLETE = "dataset_info.json"
"""The file beside the shards that is written last, and that TFDS reads."""
INDEX = "index.jsonl"
"""The file beside shards of `data prepare` with a line for every record."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What `data prepare` writes about a record, into the record itself and into the index."""

    name: str
    """Name of the original file in its source; for a part of a video followed by #t=START,END in
    seconds."""
    kind: MediaKind
    suffix: str
    """Suffix of the stored file, such as .mp4 or .jpg."""
    frames: int
    """Number of frames in the stored file; 1 for an image."""
    fps: float
    """Frames per second of the stored file; 1 for an image."""
    height: int
    """Pixels of the stored file."""
    width: int
    """Pixels of the stored file."""
    sha256: str
    """SHA-256 of the original file's content, in hexadecimal digits."""


def encode(entry: Entry, media: bytes) -> bytes:
    """The bytes of a record: a tf.train.Example of the fields of `entry`, and of `media`.

    The same input gives the same bytes.

    Args:
        entry: what is written about the record.
        media: the stored file.
    """
    example = _proto().Example()
    for name, value in {**vars(entry), "media": media}.items():
        feature = example.features.feature[name]
        match value:
            case int():
                feature.int64_list.value.append(value)
            case float():
                feature.float_list.value.append(value)
            case str():
                feature.bytes_list.value.append(value.encode("utf-8", "surrogateescape"))
            case _:
                feature.bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode(record: bytes, what: str) -> tuple[str, bytes]:
    """The suffix and the content of the media file in a record.

    Args:
        record: a media file, or an Example one of whose features is a media file.
        what: the record's name for messages.

    Raises:
        UserError: the record holds no media file, or several.
    """
    suffix = media_suffix(record)
    if suffix is not None:
        return suffix, record
    found = [
        (suffix, value)
        for feature in _features(record, what).values()
        if len(feature.bytes_list.value) == 1
        for value in feature.bytes_list.value
        if (suffix := media_suffix(value)) is not None
    ]
    if len(found) != 1:
        raise UserError(
            f"{what} has {len(found) or 'no'} features that are media files; it must have one."
        )
    return found[0]


def kind_of(suffix: str) -> MediaKind:
    """The kind of a media file by its suffix."""
    return "image" if suffix in IMAGE_SUFFIXES else "video"


def _features(record: bytes, what: str) -> Any:
    try:
        return _proto().Example.FromString(record).features.feature
    except Exception as error:  # protobuf has an error of its own in each of its implementations
        raise UserError(
            f"{what} is neither a media file nor a tf.train.Example with one."
        ) from error


def _proto() -> Any:
    """The module of tf.train.Example. Its import takes half a second and isn't always needed."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2
