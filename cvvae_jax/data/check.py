"""Finds the bad media of a source: every medium is decoded to its end, on all cores."""

import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from cvvae_jax.data.sources import Source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import one_line
from cvvae_jax.video_io.decoding import open_video
from cvvae_jax.video_io.images import is_image, read_image
from cvvae_jax.video_io.media_types import Frames, Media

# Files handed out per process: enough that none waits, few to decode again after a crash.
_AHEAD = 2

_source: Source | None = None
_CRASHED = "decoding it ends the process."


def check(source: Source, *, workers: int) -> Iterator[tuple[str, str | None]]:
    """Decode every medium of a source.

    Args:
        source: the media.
        workers: number of processes that decode. A process that a bad file crashes is restarted.

    Yields:
        (name, reason) of every medium, in any order; the reason is None where it can be decoded.
    """
    numbers = iter(range(len(source)))
    while True:
        suspects = yield from _until_crash(source, numbers, workers)
        if not suspects:
            return
        for number in suspects:  # each in a process of its own, to find the one that crashes
            crashed = yield from _until_crash(source, iter([number]), 1)
            for culprit in crashed:
                yield source.name(culprit), _CRASHED


def _until_crash(source: Source, numbers: Iterator[int], workers: int) -> Iterator:
    """Checks media to the end, or until a process dies; returns the numbers handed out then."""
    spawn = multiprocessing.get_context("spawn")
    flying: dict[Future, int] = {}
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_open, initargs=(source,))
    with pool:
        while True:
            lost = []
            try:
                for number in itertools.islice(numbers, workers * _AHEAD - len(flying)):
                    lost = [number]
                    flying[pool.submit(_fault, number)] = number
                    lost = []
                if not flying:
                    return []
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    reason = future.result()
                    yield source.name(flying.pop(future)), reason
            except BrokenProcessPool:
                return sorted([*flying.values(), *lost])


def _open(source: Source) -> None:
    """Keeps the source in a worker: sending a large one with every number would take most of the
    time."""
    global _source
    _source = source


def _fault(number: int) -> str | None:
    return fault(_source, number)


def fault(source: Source, number: int) -> str | None:
    """Why medium `number` can't be decoded to its end, in one line; None where it can."""
    try:
        _decode_all(source[number])
    except MemoryError:
        raise
    except Exception as error:  # damaged data makes libraries raise whatever there is
        return one_line(error)
    return None


def _decode_all(media: Media) -> None:
    """Raises UserError where a medium cannot be decoded to its end."""
    if isinstance(media, Frames):
        return
    if is_image(media):
        read_image(media)
        return
    with open_video(media) as video:
        if not sum(1 for _ in video.frames(threads="NONE")):
            raise UserError(f"{media} holds no frame that can be decoded.")
