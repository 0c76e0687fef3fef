"""PyTorch's pickle files through torch, a tensor at a time, without running what they hold."""

import functools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from cvvae_jax.convert.files.source import Stamp, TensorInfo, WeightFile, check_count, readable
from cvvae_jax.errors import UserError

ZIP_MAGIC = b"PK\x03\x04"
# torch before 2.6 could be made to run code in spite of `weights_only` (CVE-2025-32434), and before
# 2.10 to corrupt memory (CVE-2026-24747).
_SAFE_TORCH = (2, 10)
# Pages of a mapping count as memory of the process until it is closed.
_REMAP_BYTES = 128 * 2**20
_DTYPES = (
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool"),
)
# Types that NumPy lacks, with an integer type of the same width.
_OF_ML_DTYPES = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
}
# How deep in a training state weights are looked for.
_DEPTH = 3


def open_pickle(path: Path) -> WeightFile:
    """Checks a file of `torch.save`; of a file in its zip format no tensor is read.

    The file may hold a dict of tensors, or a training state with such dicts in it. Tensors that
    can't be read, sparse or of another type, have a `fault`; they are no reason to refuse others.

    Raises:
        UserError: torch is missing or too old; the file is damaged, compressed, or refers to
            code.
    """
    with readable(path), path.open("rb") as file:
        stamp = Stamp.of(file.fileno())
        zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if zipped:
        _check_zip(path, size=stamp.size)
    tensors = _load(path, mapped=zipped)
    check_count(path, len(tensors))
    infos = {name: _info(path, name, tensor, stamp.size) for name, tensor in tensors.items()}
    read = _read_mapped if zipped else _read_whole
    return WeightFile(path, infos, {}, functools.partial(read, path, stamp))


def _check_zip(path: Path, *, size: int) -> None:
    """Torch stores its entries uncompressed; small files that unpack to huge ones end here."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises half a dozen types for damaged files
        raise UserError(
            f"{path} is a damaged or cut short zip archive ({error}); download it again."
        ) from error
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if names.count("data.pkl") != 1:
        raise UserError(
            f"{path} is a zip archive but not PyTorch's (it holds no data.pkl); unpack it and name "
            "the weights in it."
        )
    if "constants.pkl" in names:
        raise UserError(f"{path} is a TorchScript program; only files of weights are read.")
    stored = all(
        entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        for entry in entries
    )
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise UserError(
            f"{path} holds compressed or oversized entries, which torch.save never writes; it was "
            "not unpacked."
        )


def _load(path: Path, *, mapped: bool) -> dict[str, Any]:
    """The torch tensors in the file, by name."""
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of files that are refused a line later
            state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can raise nearly any type
        # Torch's own message advises to load the file without this protection.
        raise UserError(_explain(path, error)) from None
    return _tensors_of(path, state)


def _import_torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} takes PyTorch: run `pip install torch`, or name a .safetensors file."
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < _SAFE_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} cannot read {path} safely: run `pip install "
            f"'torch>={'.'.join(map(str, _SAFE_TORCH))}'`, or name a .safetensors file."
        )
    return torch


def _explain(path: Path, error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    if refused := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"{path} holds code or Python objects ({refused[1].rstrip('.')}) and was not loaded; "
            "only files of plain tensors are read."
        )
    reason = message.partition("WeightsUnpickler error: ")[2] or message
    reason = reason.strip().partition("\n")[0].rstrip(". ")
    return f"{path} is no sound file of PyTorch weights and was not loaded (torch: {reason})."


def _tensors_of(path: Path, state: Any) -> dict[str, Any]:
    """The tensors in what torch.save was given, by name.

    A training state has counters, hyperparameters and optimizer states beside its weights, which
    are passed over. Of several sets of tensors each has its key before its names.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path} holds {type(state).__name__}, not a dict of tensors.")
    found = _find(state, _DEPTH)
    if not found:
        raise UserError(f"{path} holds no dict of tensors; it has {_listed(state)}.")
    tensors = {name: tensor for name, tensor in found.items() if isinstance(name, str)}
    if not tensors:
        raise UserError(f"{path} names a tensor {next(iter(found))!r}; names must be text.")
    return tensors


def _find(state: dict[Any, Any], depth: int) -> dict[Any, Any]:
    """The tensors of a dict; else of dicts in it; else of those deeper in it."""
    own = _tensors_in(state)
    sets = {key: tensors for key, value in state.items() if (tensors := _tensors_in(value))}
    if not own and not sets and depth:
        inner = {key: value for key, value in state.items() if isinstance(value, dict)}
        sets = {key: found for key, value in inner.items() if (found := _find(value, depth - 1))}
    if "state_dict" in sets:
        return sets["state_dict"]
    if len(sets) == 1 and not any(tensor.ndim for tensor in own.values()):
        return next(iter(sets.values()))
    return own | {
        f"{key}.{name}": tensor for key, found in sets.items() for name, tensor in found.items()
    }


def _tensors_in(value: Any) -> dict[Any, Any]:
    entries = value.items() if isinstance(value, dict) else ()
    return {name: tensor for name, tensor in entries if _is_tensor(tensor)}


def _listed(state: dict[Any, Any]) -> str:
    names = [str(key) for key in state]
    return ", ".join(names[:10] + ["..."] * (len(names) > 10)) or "nothing at all"


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _info(path: Path, name: str, tensor: Any, size: int) -> TensorInfo:
    import torch

    dtypes = {getattr(torch, name): np.dtype(name) for name in _DTYPES}
    dtypes |= {getattr(torch, name): np.dtype(getattr(ml_dtypes, name)) for name in _OF_ML_DTYPES}
    kind = None
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        kind = f"a {type(tensor).__name__}"
    elif tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = f"{tensor.layout}, {tensor.dtype} on {tensor.device}"
    elif tensor.dtype not in dtypes:
        kind = str(tensor.dtype)
    elif tensor.numel() * tensor.element_size() > size:
        # A view that repeats its elements can be of any size.
        kind = f"a view of shape {tuple(tensor.shape)}, larger than the file"
    if kind:
        accepted = ", ".join((*_OF_ML_DTYPES, *_DTYPES))
        fault = f"{path} holds {name} as {kind}; accepted are dense tensors of {accepted}."
        return TensorInfo((), None, fault)
    return TensorInfo(tuple(tensor.shape), dtypes[tensor.dtype])


def _read_mapped(path: Path, stamp: Stamp, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    tensors, unmapped_at = _load_again(path, stamp, mapped=True), 0
    order = sorted(names, key=lambda name: tensors[name].data_ptr())
    done = 0
    for name in order:
        if done > unmapped_at + _REMAP_BYTES:
            tensors = None  # the old mapping goes before the new one comes
            tensors, unmapped_at = _load_again(path, stamp, mapped=True), done
        done += tensors[name].numel() * tensors[name].element_size()
        yield name, _to_numpy(tensors[name])


def _read_whole(path: Path, stamp: Stamp, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    loaded = _load_again(path, stamp, mapped=False)
    tensors = {name: loaded[name] for name in names}
    del loaded
    for name in names:
        yield name, _to_numpy(tensors.pop(name))


def _load_again(path: Path, stamp: Stamp, *, mapped: bool) -> dict[str, Any]:
    with readable(path):
        stamp.check(path, path)
        tensors = _load(path, mapped=mapped)
        stamp.check(path, path)
    return tensors


def _to_numpy(tensor: Any) -> np.ndarray:
    """A copy, as the tensor may be a view of a mapping or of a storage that others share."""
    import torch

    tensor = tensor.detach()
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _OF_ML_DTYPES:
        bits = tensor.view(getattr(torch, _OF_ML_DTYPES[name]))
        return bits.numpy().copy().view(getattr(ml_dtypes, name))
    return tensor.numpy().copy()
