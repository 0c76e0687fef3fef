"""What a record of an ArrayRecord shard is: a media file, alone or in a tf.train.Example."""

import dataclasses
from typing import Any

from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import IMAGE_SUFFIXES, media_suffix
from cvvae_jax.video_io.media_types import MediaKind

BEGUN = "prepare.json"
"""The file beside shards of `data prepare` that says what they are made of, and how."""
COMPLETE = "dataset_info.json"
"""The file beside them that is written last; for TFDS, too."""
INDEX = "index.jsonl"
"""The file beside shards of `data prepare` that says what is in them, a line a record."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What `data prepare` says of a record, in the record itself and in the index."""

    name: str
    """Of the original file in its source; of a part of a video also its seconds, as #t=0,60."""
    kind: MediaKind
    suffix: str
    """Of the stored file: .mp4, .jpg."""
    frames: int
    """Of the stored file, as are fps, height and width; 1 for an image."""
    fps: float
    """Frames per second; 1 for an image."""
    height: int
    """In pixels."""
    width: int
    """In pixels."""
    sha256: str
    """Of the original file's content, in hexadecimal digits."""


def encode(entry: Entry, media: bytes) -> bytes:
    """A record: a tf.train.Example of the fields of `Entry` and of `media`, the stored file.

    The same input gives the same bytes.
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
        UserError: there is none in it, or several.
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
    """Which kind of media a file is by its suffix."""
    return "image" if suffix in IMAGE_SUFFIXES else "video"


def _features(record: bytes, what: str) -> Any:
    try:
        return _proto().Example.FromString(record).features.feature
    except Exception as error:  # protobuf has an error of its own in each of its implementations
        raise UserError(
            f"{what} is neither a media file nor a tf.train.Example with one."
        ) from error


def _proto() -> Any:
    """Imported when the first Example is met: it takes half a second and is not always needed."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2
