"""ArrayRecord shards of prepared data, and the files by which tensorflow-datasets reads them."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.prepare.source_files import File, content_hash, open_kind
from cvvae_jax.data.prepare.transcode import BadMedium, transcode
from cvvae_jax.data.record_format import encode
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.checksums import record_checksum
from cvvae_jax.resumable.target import WORK, Target
from cvvae_jax.video_io.media_types import Media

_VERSION = r"\d+\.\d+\.\d+"
FEATURES = "features.json"
"""The file with the features of a record, for TFDS."""


def name_and_version(place: str) -> tuple[str, str]:
    """A data set's name and version, from its folder DATA_DIR/NAME/1.0.0 or DATA_DIR/NAME.

    Characters that TFDS doesn't accept in a name become underscores.
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
        name: name of the data set.
        version: version of the data set.
        shard_lengths: number of records of each shard.
        size: total size of all shards, in bytes.
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
    """The number of records of each shard, and the total bytes, from dataset_info.json.

    Raises:
        UserError: the file doesn't hold these numbers.
    """
    try:
        split = info["splits"][0]
        return [int(length) for length in split["shardLengths"]], int(split["numBytes"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{place}/dataset_info.json is damaged: {error!r}.") from error


def _message_as_dict(message) -> dict:
    from google.protobuf import json_format

    return json.loads(json_format.MessageToJson(message, sort_keys=True))


def _json(value: dict) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


PARTS = f"{WORK}/parts"
"""Folder in the target for the index of each shard, which is written once the shard exists."""
# One record per group, for random access; video and JPEG can't be compressed further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Makes one shard."""

    place: str
    exclude: str | None
    target: Target
    config: PrepareConfig
    shard: str
    """The shard's file name."""
    files: tuple[File, ...]

    @property
    def result(self) -> str:
        """Name of the file in `PARTS` that exists once the job is done."""
        return f"{self.shard}.json"

    @property
    def what(self) -> str:
        """What the job works on, for messages."""
        names = dict.fromkeys([self.files[0].name, self.files[-1].name])
        return f"{self.shard} ({' to '.join(names)})"

    def __len__(self) -> int:
        return len(self.files)

    def run(self) -> None:
        """Make the shard, and then its index in `PARTS`.

        Raises:
            UserError: the source changed, or the shard cannot be written.
        """
        with self.target.scratch() as folder:
            try:
                part = self._write(folder)
                self.target.put(folder / self.shard, self.shard)
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"{self.shard} cannot be written: {str(error).split(';')[0]}. What is finished "
                    "stays, and the same command goes on."
                ) from error
        self.target.write(f"{PARTS}/{self.result}", json.dumps(part))

    def _write(self, folder: Path) -> dict:
        path = folder / self.shard
        rows, bad = [], {}
        writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        try:
            for file in self.files:
                try:
                    written = self._append(file, writer, folder)
                except BadMedium as error:
                    bad[file.name] = str(error)
                    continue
                for row in written:
                    rows.append({"shard": self.shard, "position": len(rows), **row})
        finally:
            writer.close()
        return {"rows": rows, "bad": bad, "bytes": path.stat().st_size}

    def _append(self, file: File, writer, folder: Path) -> list[dict[str, Any]]:
        """Write all records of a file, or none if the file is bad; returns their lines of the
        index."""
        pieces = folder / "pieces"
        pieces.mkdir(exist_ok=True)
        try:
            found = transcode(
                self._media(file),
                file.kind,
                record_name(self.place, file.name),
                file.sha256,
                self.config,
                pieces,
            )
            rows = []
            for entry, path in found:
                record = encode(entry, path.read_bytes())
                writer.write(record)
                rows.append({"crc32": record_checksum(record), **vars(entry)})
        finally:
            for path in pieces.iterdir():
                path.unlink()
        return rows

    def _media(self, file: File) -> Media:
        """The medium of a file.

        Raises:
            UserError: the content is no longer what was hashed.
        """
        source = open_kind(self.place, self.exclude, file.kind)
        try:
            if file.number < len(source) and source.name(file.number) == file.name:
                media = source[file.number]
                if content_hash(media)[0] == file.sha256:
                    return media
        except (UserError, OSError) as error:
            raise UserError(
                f"{file.name} can't be read any more: {error}; when it can, the same command goes "
                "on."
            ) from error
        raise UserError(
            f"{file.name} changed since {self.target.place} was begun; remove that folder to "
            "prepare the source anew."
        )


def record_name(place: str, name: str) -> str:
    """A medium's name in records: its path relative to the source."""
    return name.removeprefix(place.rstrip("/") + "/") if place else name


def shard_name(name: str, number: int, count: int) -> str:
    """The file name of a shard, as TFDS expects it."""
    return f"{name}-train.array_record-{number:05d}-of-{count:05d}"
