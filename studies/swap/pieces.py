"""The study as pieces of work, each of which leaves a file: what is there is not done again."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from flax import nnx

from studies.classifier import Classifier, train_classifier
from studies.files import read_arrays, read_tree, write_arrays, write_json, write_text, write_tree
from studies.swap.measures import Bench, measure_seed, measure_vae
from studies.swap.models import make_pool, train_image_model, train_video_model
from studies.swap.settings import KINDS, Kind, Place, Settings
from studies.swap.tuning import tune
from studies.swap.vaes import followed, make_clips, train_image_vae, train_vae


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of work; the pieces that it needs come before it."""

    name: str
    left: Path
    """The file that it leaves when it is done."""
    work: Callable[[], None] = dataclasses.field(repr=False)

    @property
    def done(self) -> bool:
        """Whether its file is there."""
        return self.left.exists()


def all_pieces(settings: Settings, place: Place) -> list[Piece]:
    """All pieces in an order in which each finds what it needs. Seeds come one after the other, so
    that the first ones are whole as soon as possible."""
    found = [*_shared(settings, place)]
    for seed in settings.images:
        found += _of_seed(settings, place, seed)
    return found


def _shared(settings: Settings, place: Place) -> Iterator[Piece]:
    marker = place.out / "clips" / "done"
    yield Piece("clips", marker, _then_mark(marker, functools.partial(make_clips, settings, place)))
    yield Piece(
        "classifier", place.classifier, functools.partial(_make_classifier, settings, place)
    )
    first_seeds = {image: seed for seed, image in reversed(settings.images.items())}
    for image, seed in sorted(first_seeds.items()):
        marker = place.image_run(image) / "done"
        work = functools.partial(train_image_vae, settings, place, image)
        yield Piece(f"image VAE {image}", marker, _then_mark(marker, work))
        pool = functools.partial(make_pool, settings, place, seed)
        yield Piece(f"latents of image VAE {image}", place.pool(image), pool)


def _of_seed(settings: Settings, place: Place, seed: int) -> Iterator[Piece]:
    for kind in KINDS:
        if settings.vae_of(kind, seed) != (kind, seed):
            continue
        left = place.of_vae(kind, seed, "training.json")
        work = functools.partial(_train_vae, settings, place, kind, seed, left)
        yield Piece(f"seed {seed}: VAE {kind}", left, work)
    for name, train in (("image", train_image_model), ("video", train_video_model)):
        left = place.of_seed(seed, f"{name}_model.npz")
        yield Piece(
            f"seed {seed}: {name} model", left, functools.partial(train, settings, place, seed)
        )
    left = place.of_seed(seed, "measures.json")
    yield Piece(
        f"seed {seed}: samples", left, functools.partial(_measure_seed, settings, place, seed)
    )
    for kind in KINDS:
        for name, work in (("measures", _measure_vae), ("tuning", _tune)):
            left = place.of_vae(kind, seed, f"{name}.json")
            yield Piece(
                f"seed {seed}: {name} of {kind}",
                left,
                functools.partial(work, settings, place, kind, seed, left),
            )


def _then_mark(marker: Path, work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        work()
        write_text(marker, "")

    return run


def _make_classifier(settings: Settings, place: Place) -> None:
    clips = settings.clips("classifier")
    write_tree(place.classifier, train_classifier(clips, steps=settings.classifier_steps))


def _train_vae(settings: Settings, place: Place, kind: Kind, seed: int, left: Path) -> None:
    train_vae(settings, place, kind, seed)
    write_json(left, {"psnr": followed(place.vae_run(kind, seed))})


def bench_of(settings: Settings, place: Place, seed: int) -> Bench:
    """What measures of a seed share."""
    shape = jax.eval_shape(lambda: Classifier(size=settings.size, rngs=nnx.Rngs(0)))
    return Bench(settings, place, seed, read_tree(place.classifier, shape))


def _measure_seed(settings: Settings, place: Place, seed: int) -> None:
    found, samples = measure_seed(bench_of(settings, place, seed))
    write_arrays(place.of_seed(seed, "samples.npz"), samples)
    write_json(place.of_seed(seed, "measures.json"), found)


def _measure_vae(settings: Settings, place: Place, kind: Kind, seed: int, left: Path) -> None:
    samples = read_arrays(place.of_seed(seed, "samples.npz"))
    write_json(left, measure_vae(bench_of(settings, place, seed), kind, samples))
    jax.clear_caches()  # programs of one VAE are of no use to the next


def _tune(settings: Settings, place: Place, kind: Kind, seed: int, left: Path) -> None:
    write_json(left, tune(bench_of(settings, place, seed), kind))
