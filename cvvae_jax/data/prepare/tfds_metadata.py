"""What makes a folder of shards a TFDS data set: its name, version and two files."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cvvae_jax.config import ConfigError

_VERSION = r"\d+\.\d+\.\d+"
FEATURES = "features.json"
"""The file that says what is in a record."""


def name_and_version(place: str) -> tuple[str, str]:
    """A data set's name and version by its folder: DATA_DIR/NAME/1.0.0, or DATA_DIR/NAME.

    What TFDS doesn't accept in a name becomes an underscore.
    """
    *above, last = [part for part in place.split("/") if part]
    if above and re.fullmatch(_VERSION, last):
        name, version = above[-1], last
    else:
        name, version = last, "1.0.0"
    name = re.sub(r"[^a-z0-9_]", "_", name.lower())
    return (name if re.match(r"[a-z]", name) else f"data_{name}"), version


def features() -> str:
    """The content of features.json."""
    import tensorflow_datasets as tfds

    text, integer = tfds.features.Text, tfds.features.Scalar(np.int64)
    spec = tfds.features.FeaturesDict(
        {
            "media": tfds.features.Tensor(shape=(), dtype=np.bytes_),
            "name": text(),
            "kind": text(),
            "suffix": text(),
            "frames": integer,
            "fps": tfds.features.Scalar(np.float32),
            "height": integer,
            "width": integer,
            "sha256": text(),
        }
    )
    return _json(_message_as_dict(spec.to_proto()))


def info(name: str, version: str, shard_lengths: Sequence[int], size: int) -> str:
    """The content of dataset_info.json.

    Args:
        name: of the data set.
        version: of the data set.
        shard_lengths: the number of records of each shard.
        size: of all shards, in bytes.
    """
    split = {
        "name": "train",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(length) for length in shard_lengths],
        "numBytes": str(size),
    }
    return _json(
        {
            "name": name,
            "version": version,
            "description": "Videos and images, prepared for training.",
            "fileFormat": "array_record",
            "splits": [split],
        }
    )


def lengths_and_size(info: dict[str, Any], place: str) -> tuple[list[int], int]:
    """The number of records of each shard, and the bytes of all, from dataset_info.json.

    Raises:
        ConfigError: it doesn't say them.
    """
    try:
        split = info["splits"][0]
        return [int(length) for length in split["shardLengths"]], int(split["numBytes"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}/dataset_info.json is damaged: {error!r}.") from error


def _message_as_dict(message) -> dict:
    from google.protobuf import json_format

    return json.loads(json_format.MessageToJson(message, sort_keys=True))


def _json(value: dict) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
