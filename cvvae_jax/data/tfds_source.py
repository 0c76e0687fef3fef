"""Media in a data set that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow.

tensorflow_datasets is imported only where it is used, since its import takes a second.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from cvvae_jax.data.files import SUFFIXES
from cvvae_jax.errors import UserError
from cvvae_jax.video_io.containers import media_suffix
from cvvae_jax.video_io.media_types import Blob, Frames, MediaKind, NothingFound

_PREFIX = "tfds:"
_OPTIONS = ("split", "feature", "data_dir")
_PREPARE = 'builder.download_and_prepare(file_format="array_record")'
# Examples that are read to find out whether a feature of bytes holds media files.
_SAMPLES = 8
_LOOKS = {
    "video": "a uint8 Tensor (frames, height, width, 3), or bytes of a video file",
    "image": "an Image, a uint8 Tensor (height, width, 3 or 1), or bytes of an image file",
}


def is_tfds(place: str) -> bool:
    """Whether a place is a data set of TensorFlow Datasets."""
    return place.startswith(_PREFIX)


class TFDSSource:
    """The media in one feature of the examples of a split, in order."""

    def __init__(self, place: str, kind: MediaKind):
        """Find the data set, and the feature where the place names none. Nothing is downloaded.

        Args:
            place: `tfds:NAME[/CONFIG][:VERSION][?split=train&feature=video&data_dir=DIR]`. NAME may
                be the folder of a prepared version, which dataset_info.json is in; `split` may be
                a part, such as `train[:90%]`; `feature` in a nested one is written `outer/inner`.
            kind: the kind of media in the feature.

        Raises:
            UserError: tensorflow_datasets is not installed, or the data set is not prepared as
                ArrayRecord, needs TensorFlow, or has no such split or feature, or several.
        """
        name, options = _parsed(place)
        split = options.get("split", "train")
        self._kind = kind
        self._name = f"{_PREFIX}{name}?split={split}"
        self._folder = _prepared_folder(place, name, options.get("data_dir"))
        self._split = split
        examples = _Examples(place, self._folder, split)
        self._length = len(examples)
        self._feature = _feature(place, examples, kind, options.get("feature"))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Blob | Frames:
        """The medium of example `index`."""
        name = self.name(index)
        try:
            examples = _opened(self._name, self._folder, self._split)
            wanted = [self._feature, "fps"] if examples.states_fps else [self._feature]
            value, *fps = examples.read(index, wanted)
        except Exception as error:  # a damaged shard raises whatever its reader stumbles over
            raise UserError(f"{name} cannot be read: {_first_line(error)}.") from error
        if isinstance(value, np.ndarray) and value.size:
            return _frames(name, value, fps)
        suffix = media_suffix(value) if isinstance(value, bytes) else None
        if suffix not in SUFFIXES[self._kind]:
            raise UserError(f"{name} holds no {self._kind} in its feature {self._feature}.")
        return Blob(f"{name}{suffix}", value)

    def name(self, index: int) -> str:
        """The medium's name, such as `tfds:NAME?split=train[12]`."""
        return f"{self._name}[{index}]"


class _Examples:
    """The examples of a split. It holds open files, so each process has its own."""

    def __init__(self, place: str, folder: str, split: str):
        tfds = _tfds()
        builder = tfds.builder_from_directory(folder)
        formats = {each.value for each in builder.info.available_file_formats()}
        if "array_record" not in formats:
            raise UserError(
                f"{place} is not prepared as ArrayRecord but as {', '.join(sorted(formats))}, in "
                f"{folder}: prepare it again in another data_dir, with {_PREPARE}."
            )
        try:
            self._records = builder.as_data_source(
                split,
                file_format="array_record",
                # `read` decodes the wanted features only.
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            )
        except Exception as error:  # what is not understood raises errors of many kinds
            splits = ", ".join(builder.info.splits)
            raise UserError(
                f"{place} has no split {split}, or nothing in it: there are {splits}, and parts "
                "such as train[:90%]."
            ) from error
        self.features = dict(sorted(_flat(builder.info.features, tfds.features.FeaturesDict)))
        fps = self.features.get("fps")
        self.states_fps = _is_tensor(fps) and fps.shape == () and _dtype(fps).kind in "iuf"

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, wanted: list[str]) -> list[Any]:
        """The wanted features of an example. An Image is not decoded."""
        tree = _nested({path: self.features[path] for path in wanted})
        skip = {p: _tfds().decode.SkipDecoding() for p in wanted if _is_image(self.features[p])}
        example = _features_dict(tree).deserialize_example_np(
            self._records[index], decoders=_nested(skip)
        )
        flat = dict(_flat(example, dict))
        return [flat[path] for path in wanted]


@functools.lru_cache(maxsize=64)
def _opened(place: str, folder: str, split: str) -> _Examples:
    """The examples of a split, opened once in each process: open files can't be sent to workers."""
    return _Examples(place, folder, split)


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"{_PREFIX}... needs a package that is not installed: pip install tensorflow-datasets."
        ) from error
    return tensorflow_datasets


def _parsed(place: str) -> tuple[str, dict[str, str]]:
    name, _, query = place.removeprefix(_PREFIX).partition("?")
    # Taken as it is written: a `+` or a `%` in a split is no escape.
    options = dict(option.partition("=")[::2] for option in query.split("&") if option)
    unknown = [option for option in options if option not in _OPTIONS or not options[option]]
    if unknown or not name:
        wrong = f"{unknown[0]} is no option, or has no value" if unknown else "it has no name"
        raise UserError(
            f"{place}: {wrong}; write {_PREFIX}NAME[/CONFIG][:VERSION], and then, if need be, "
            "?split=...&feature=...&data_dir=..."
        )
    return name, options


def _prepared_folder(place: str, name: str, data_dir: str | None) -> str:
    """The folder of the prepared data set. Only files are read; no code of the data set is run."""
    tfds = _tfds()
    from tensorflow_datasets.core import read_only_builder

    data_dir = data_dir and os.path.expanduser(data_dir)
    path = os.path.expanduser(name)
    folder = os.path.join(data_dir or "", path)
    try:
        if os.path.isabs(path) or os.path.isfile(os.path.join(folder, "dataset_info.json")):
            builder = tfds.builder_from_directory(folder)
        else:
            builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except ImportError as error:
        raise UserError(
            f"{place} has a feature that needs {error.name}, as a Video needs TensorFlow: store "
            "videos as the bytes of their files, in a features.Tensor(shape=(), dtype=np.bytes_)."
        ) from error
    except Exception as error:  # the errors of tfds have no class in common
        raise UserError(
            f"{place} is not prepared: {_first_line(error)}. Prepare it with {_PREPARE}, or give "
            "the folder that it is in as ?data_dir=..."
        ) from error
    return str(builder.data_dir)


def _feature(place: str, examples: _Examples, kind: MediaKind, wanted: str | None) -> str:
    """The feature that holds media of a kind."""
    described = ", ".join(
        f"{path}: {' '.join(repr(feature).split())}" for path, feature in examples.features.items()
    )
    if wanted is not None:
        if wanted not in examples.features:
            raise UserError(f"{place} has no feature {wanted}: it has {described}.")
        if not (_is_bytes(examples.features[wanted]) or _holds(examples.features[wanted], kind)):
            raise UserError(
                f"{place}: {wanted} is no feature of {kind}s, which is {_LOOKS[kind]}; there are "
                f"{described}."
            )
        return wanted
    found = [path for path, feature in examples.features.items() if _holds(feature, kind)]
    found += _features_of_files(examples, kind)
    if len(found) != 1:
        how_many = f"several features of {kind}s ({', '.join(found)})" if found else "none"
        error = UserError if found else NothingFound
        raise error(
            f"{place}: which feature holds the {kind}s? It has {how_many}, where one is wanted "
            f"that is {_LOOKS[kind]}: give it as ?feature=... There are {described}."
        )
    return found[0]


def _features_of_files(examples: _Examples, kind: MediaKind) -> list[str]:
    """The features of bytes that hold media files in the first examples."""
    paths = [path for path, feature in examples.features.items() if _is_bytes(feature)]
    found = set()
    for index in range(min(_SAMPLES, len(examples)) if paths else 0):
        with contextlib.suppress(Exception):  # a damaged example tells nothing
            values = zip(paths, examples.read(index, paths), strict=True)
            found |= {path for path, value in values if media_suffix(value) in SUFFIXES[kind]}
    return sorted(found)


def _holds(feature: Any, kind: MediaKind) -> bool:
    """Whether a feature holds media of a kind, by its type."""
    if _is_image(feature):
        return kind == "image"
    if not _is_tensor(feature) or _dtype(feature) != np.uint8:
        return False
    rank, channels = len(feature.shape), feature.shape[-1] if feature.shape else None
    return (rank == 4 and channels == 3) if kind == "video" else (rank == 3 and channels in (1, 3))


def _is_image(feature: Any) -> bool:
    """Whether a feature is an image file with integer samples; decoders can't read float images."""
    return isinstance(feature, _tfds().features.Image) and _dtype(feature).kind == "u"


def _is_tensor(feature: Any) -> bool:
    return isinstance(feature, _tfds().features.Tensor)


def _is_bytes(feature: Any) -> bool:
    return _is_tensor(feature) and feature.shape == () and _dtype(feature).kind in "OSU"


def _dtype(feature: Any) -> np.dtype:
    return np.dtype(feature.np_dtype)


def _frames(name: str, array: np.ndarray, fps: list[Any]) -> Frames:
    if array.ndim == 3:
        array = np.broadcast_to(array, (*array.shape[:2], 3))[None]
    if fps and math.isfinite(fps[0]) and fps[0] > 0:
        return Frames(name, array, float(fps[0]))
    return Frames(name, array)


def _flat(tree: Any, branching: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries of a type, with their paths such as `outer/inner`."""
    if not isinstance(tree, branching):
        yield path, tree
        return
    for key, below in tree.items():
        yield from _flat(below, branching, f"{path}/{key}" if path else key)


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The nested dictionaries of leaves with paths: the inverse of `_flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *outer, inner = path.split("/")
        branch = tree
        for key in outer:
            branch = branch.setdefault(key, {})
        branch[inner] = leaf
    return tree


def _features_dict(tree: dict[str, Any]) -> Any:
    return _tfds().features.FeaturesDict(
        {
            key: _features_dict(value) if isinstance(value, dict) else value
            for key, value in tree.items()
        }
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
