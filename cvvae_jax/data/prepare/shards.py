"""One shard: its files transcoded, in one go, with the part of the index that belongs to it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from cvvae_jax.config import ConfigError
from cvvae_jax.data.checksums import of_record
from cvvae_jax.data.media import Media
from cvvae_jax.data.prepare.options import PrepareConfig
from cvvae_jax.data.prepare.plan import File, content_hash, open_kind
from cvvae_jax.data.prepare.target import WORK, Target
from cvvae_jax.data.prepare.transcode import BadMedium, transcode
from cvvae_jax.data.record_format import encode

PARTS = f"{WORK}/parts"
"""Folder of the parts of the index; one that is there says that its shard is."""
# A file of its own for each record; video and JPEG cannot be compressed any more.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """A shard to be made."""

    place: str
    exclude: str | None
    target: Target
    config: PrepareConfig
    shard: str
    """The shard's file name."""
    files: tuple[File, ...]

    @property
    def result(self) -> str:
        """The file of `PARTS` that is there once the job is done."""
        return f"{self.shard}.json"

    @property
    def what(self) -> str:
        """What it works on, for messages."""
        names = dict.fromkeys([self.files[0].name, self.files[-1].name])
        return f"{self.shard} ({' to '.join(names)})"

    def __len__(self) -> int:
        return len(self.files)

    def run(self) -> None:
        """Make the shard, then the part that says that it is whole.

        Raises:
            ConfigError: the source changed, or the shard cannot be written.
        """
        with self.target.scratch() as folder:
            try:
                part = self._write(folder)
                self.target.put(folder / self.shard, self.shard)
            except (OSError, RuntimeError) as error:
                raise ConfigError(
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
        """Write the records of a file, all of them or, if it is bad, none; what the index says of
        each."""
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
                rows.append({"crc32": of_record(record), **vars(entry)})
        finally:
            for path in pieces.iterdir():
                path.unlink()
        return rows

    def _media(self, file: File) -> Media:
        """A file, if it is still what was hashed."""
        source = open_kind(self.place, self.exclude, file.kind)
        try:
            if file.number < len(source) and source.name(file.number) == file.name:
                media = source[file.number]
                if content_hash(media)[0] == file.sha256:
                    return media
        except (ConfigError, OSError) as error:
            raise ConfigError(
                f"{file.name} can't be read any more: {error}; when it can, the same command goes "
                "on."
            ) from error
        raise ConfigError(
            f"{file.name} changed since {self.target.place} was begun; remove that folder to "
            "prepare the source anew."
        )


def record_name(place: str, name: str) -> str:
    """What a medium is called in records: its name in its source, wherever that lies."""
    return name.removeprefix(place.rstrip("/") + "/") if place else name


def shard_name(name: str, number: int, count: int) -> str:
    """The file of a shard, as TFDS calls it."""
    return f"{name}-train.array_record-{number:05d}-of-{count:05d}"
