"""The files that a run is trained and measured on: kept in its folder, and compared at every start.

What was trained on is never measured on later, whatever is added to the folder or removed from it
between two starts.
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from cvvae_jax.config import DataConfig
from cvvae_jax.data.sources import HeldOut, HeldOutByKind, file_sizes, held_out, key_of, open_source
from cvvae_jax.errors import UserError
from cvvae_jax.resumable.files import read_json, write_whole
from cvvae_jax.training.log import say
from cvvae_jax.video_io.media_types import MediaKind

_NAME = "data.json"
_SHOWN = 3

Listed = dict[MediaKind, dict[str, int | None]]
"""Sizes of files in bytes, where they are known, by key."""


def known_sides(folder: Path) -> HeldOutByKind:
    """Which files the run in a folder held out so far, and which it trained on; nothing for a new
    run.

    Raises:
        UserError: the record of it is damaged.
    """
    return {kind: _sides(record) for kind, record in _read(folder).items()}


def listed_files(data: DataConfig) -> Listed:
    """The files that are there now, held out or not; nothing of moving photographs.

    Raises:
        UserError: there are none at a place.
    """
    places: dict[MediaKind, str | None] = {"video": data.videos, "image": data.images}
    return {kind: _listed(place, kind) for kind, place in places.items() if place is not None}


def _listed(place: str, kind: MediaKind) -> dict[str, int | None]:
    source = open_source(place, kind)
    names = [source.name(number) for number in range(len(source))]
    return dict(zip([key_of(place, name) for name in names], file_sizes(source), strict=True))


def check_same_files(listed: Listed) -> None:
    """Compares the files that this process sees with those of the others.

    Raises:
        UserError: they differ, so that the processes would train on different data.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps({kind: sorted(files.items()) for kind, files in sorted(listed.items())})
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(own)
    others = [i for i, digest in enumerate(digests) if not np.array_equal(digest, digests[0])]
    if others:
        counts = ", ".join(f"{len(files)} {kind} files" for kind, files in listed.items())
        raise UserError(
            f"process {others[0]} doesn't see the files, or their sizes, that process 0 sees at "
            f"the places data.videos and data.images (this process: {counts}); all need the same."
        )


def keep_files(folder: Path, data: DataConfig, listed: Listed) -> None:
    """Says which files have changed since an earlier start, and keeps what there is now.

    Raises:
        UserError: what was kept is damaged.
        OSError: it can't be written.
    """
    record = _read(folder)
    for kind, now in listed.items():
        before, known = {}, None
        if kind in record:
            before = record[kind]["held_out"] | record[kind]["trained_on"]
            known = _sides(record[kind])
            _tell(folder, kind, before, now)
        sides = dict(zip(now, held_out(list(now), known), strict=True))
        if data.eval_videos is not None:
            sides = dict.fromkeys(now, False)
        sides = {**(known or {}), **sides}  # those that are gone may come back
        sizes = before | now
        record[kind] = {
            name: {key: sizes[key] for key, side in sides.items() if side == held}
            for name, held in (("held_out", True), ("trained_on", False))
        }
    if record:
        write_whole(folder / _NAME, json.dumps(record, indent=0))


def _tell(folder: Path, kind: MediaKind, before: dict, now: dict) -> None:
    same = now.keys() & before.keys()
    changes = {
        "new": now.keys() - before.keys(),
        "gone": before.keys() - now.keys(),
        "of another size": {key for key in same if now[key] != before[key]},
    }
    for what, keys in changes.items():
        if keys:
            shown = ", ".join(sorted(keys)[:_SHOWN]) + ", .." * (len(keys) > _SHOWN)
            say(
                folder,
                f"changed since the last start: {len(keys)} {kind} files are {what} ({shown}); "
                "none that was trained on is measured on",
            )


def _sides(record: dict[str, dict]) -> HeldOut:
    held, trained = record["held_out"], record["trained_on"]
    return {**dict.fromkeys(held, True), **dict.fromkeys(trained, False)}


def _read(folder: Path) -> dict[MediaKind, dict[str, dict]]:
    path = folder / _NAME
    if not path.exists():
        return {}
    record = read_json(path)
    try:
        for files in record.values():
            _sides(files)
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged, which says what the run held out to measure on; restore it, or "
            "remove it, and files are held out by their names anew."
        ) from error
    return record
