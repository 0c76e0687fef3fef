"""Weight files: what is read, and one clear sentence for what isn't."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cvvae_jax.convert.files import TensorInfo, open_weights, safe_files, source
from cvvae_jax.convert.files import weights as weights_module
from cvvae_jax.errors import UserError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def entry(start: int, stop: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def write(path: Path, header: dict | list | bytes, data: bytes = bytes(16), length=None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def weights(path: Path, *names: str) -> Path:
    """A sound file with a tensor of two elements for every name."""
    header = {name: entry(8 * i, 8 * i + 8) for i, name in enumerate(names or "a")}
    return write(path, header, bytes(8 * len(header)))


def refused(path: Path | str, says: str) -> str:
    with pytest.raises(UserError, match=says) as error:
        list((found := open_weights(path)).read(found.tensors))
    message = str(error.value)
    assert Path(path).name in message
    assert message.endswith(".") and "\n" not in message
    return message


# Safetensors


def test_every_type_is_read_as_it_is(tmp_path):
    values = np.arange(6).reshape(2, 3)
    arrays = {tag: values.astype(dtype) for tag, dtype in safe_files.DTYPES.items()}
    arrays |= {"F32 scalar": np.full((), 3, np.float32), "F32 none": np.zeros((0, 3), np.float32)}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in reversed(arrays.items()):
        header[name] = entry(len(data), len(data) + array.nbytes, array.shape, name.split()[0])
        data += array.tobytes()
    found = open_weights(write(tmp_path / "x.safetensors", header, data))
    assert found.metadata == {"format": "pt"} and found.config is None
    assert found.tensors == {k: TensorInfo(a.shape, a.dtype) for k, a in arrays.items()}
    read = dict(found.read(arrays))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].flags.owndata
        np.testing.assert_array_equal(read[name], array)


def test_types_have_the_names_that_safetensors_gives_them(tmp_path):
    known = {tag: dtype for tag, dtype in safe_files.DTYPES.items() if not tag.startswith("F8")}
    save_file({t: np.ones(1, dtype) for t, dtype in known.items()}, tmp_path / "x.safetensors")
    found = open_weights(tmp_path / "x.safetensors")
    assert {tag: info.dtype for tag, info in found.tensors.items()} == known


def test_only_the_named_tensors_are_read_in_the_order_of_the_file(tmp_path):
    found = open_weights(weights(tmp_path / "x.safetensors", "c", "a", "b"))
    assert [name for name, _ in found.read(["b", "c", "b"])] == ["c", "b"]
    with pytest.raises(UserError, match="no tensor d"):
        list(found.read(["a", "d"]))


HEADER = json.dumps({"a": entry(0, 16, (4,))}).encode()


@pytest.mark.parametrize(
    "size, says",
    [
        (5, "cut short: by its own account its header"),
        (8 + len(HEADER) // 2, "cut short: by its own account its header"),
        (8 + len(HEADER), "cut short: it has 0 of 16 bytes"),
        (8 + len(HEADER) + 7, "cut short: it has 7 of 16 bytes"),
        (8 + len(HEADER) + 15, "cut short: it has 15 of 16 bytes"),
    ],
)
def test_truncated_files_are_refused(tmp_path, size, says):
    path = write(tmp_path / "x.safetensors", HEADER)
    path.write_bytes(path.read_bytes()[:size])
    refused(path, says)


TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 16, (4,))).encode(),) * 2)
BAD_HEADERS = {
    "negative offset": ({"a": entry(-8, 0), "b": entry(0, 16, (4,))}, "sound.*-8"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 16, (3,))}, "sound.*offset"),
    "hole": ({"a": entry(0, 4, (1,)), "b": entry(8, 16)}, "sound.*offset"),
    "bytes left over": ({"a": entry(0, 8)}, "sound"),
    "unknown type": ({"a": entry(0, 16, (4,), "F99")}, "a as F99; accepted are"),
    "a type that is no text": ({"a": entry(0, 16, (4,), ["F32"])}, "a as .'F32'.; accepted are"),
    "type of another size": ({"a": entry(0, 16, (4,), "F64")}, "sound.*shape"),
    "enormous shape": ({"a": entry(0, 16, (2**62, 2**62))}, "sound.*shape"),
    "negative axes": ({"a": entry(0, 16, (-2, -2))}, "sound.*shape"),
    "a shape that is no list": ({"a": entry(0, 16, 4)}, "sound.*shape"),
    "impossible shape": (
        {"a": entry(0, 0, (0, 2**62)), "b": entry(0, 16, (4,))},
        "a with an impossible shape",
    ),
    "too many axes": ({"a": entry(0, 16, (1,) * 99 + (4,))}, "a with an impossible shape"),
    "float8 for scales": ({"a": entry(0, 16, (16,), "F8_E8M0")}, "a as F8_E8M0"),
    "offsets in reverse": ({"a": entry(16, 0, (4,))}, "a has no valid offsets"),
    "two tensors of one name": (TWICE, "names 'a' twice"),
    "no JSON": (b'{"a": ', "not valid JSON"),
    "no UTF-8": (b'{"\xff": 1}', "not valid JSON"),
    "deep JSON": (b'{"a":' + b"[" * 100_000, "not valid JSON"),
    "no object": ([1, 2], "must be a JSON object, not a list"),
    "entry without offsets": ({"a": {"dtype": "F32"}}, "sound"),
    "entry that is a number": ({"a": 1}, "sound"),
}


@pytest.mark.parametrize("header, says", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_headers_are_refused(tmp_path, header, says):
    refused(write(tmp_path / "x.safetensors", header), says)


UNWANTED = {
    "type of later days": entry(16, 32, (16,), "F99"),
    "half bytes": entry(16, 32, (32,), "F4"),
    "float8 for scales": entry(16, 32, (16,), "F8_E8M0"),
    "complex": entry(16, 32, (2,), "C64"),
    "another size": entry(16, 32, (99,)),
    "impossible shape": entry(16, 32, (2**62, 2**62)),
    "no shape": {"dtype": "F32", "data_offsets": [16, 32]},
    "no offsets": {"dtype": "F32", "shape": [4]},
    "negative offsets": entry(-16, -8),
    "no entry": 7,
}


@pytest.mark.parametrize("other", UNWANTED.values(), ids=UNWANTED)
@pytest.mark.parametrize("metadata", [None, "x", ["x"], {"a": 1, "b": {"c": None}, "d": "e"}])
def test_tensors_that_are_not_wanted_stop_nothing(tmp_path, other, metadata):
    header = {"__metadata__": metadata, "a": entry(0, 16, (4,)), "other": other}
    data = np.arange(8, dtype=np.float32).tobytes()
    found = open_weights(write(tmp_path / "x.safetensors", header, data))
    assert found.metadata == ({"d": "e"} if isinstance(metadata, dict) else {})
    ((name, array),) = found.read(["a"])
    assert name == "a" and array.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"x\.safetensors .*other.*\.$"):
        list(found.read(["a", "other"]))


@pytest.mark.parametrize("length", [10_000, 2**62])
def test_a_header_larger_than_the_file_is_refused(tmp_path, length):
    refused(write(tmp_path / "x.safetensors", HEADER, length=length), f"has {length:,} bytes")


def test_an_enormous_header_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_files, "JSON_LIMIT", len(HEADER) - 1)
    refused(write(tmp_path / "x.safetensors", HEADER), f"{len(HEADER) - 1} at most are read")
    monkeypatch.setattr(source, "JSON_LIMIT", 9)
    path = tmp_path / "x.safetensors.index.json"
    path.write_text('{"weight_map": {}}')
    refused(path, "larger than")


def test_a_file_without_tensors_is_refused(tmp_path):
    refused(write(tmp_path / "x.safetensors", {}, b""), "no tensors")


CHANGES = [lambda path: os.truncate(path, 70), lambda path: os.utime(path, (1, 1)), Path.unlink]


@pytest.mark.parametrize("change", CHANGES, ids=["shorter", "written to", "gone"])
def test_files_that_change_between_opening_and_reading_are_refused(tmp_path, change):
    path = weights(tmp_path / "x.safetensors")
    found = open_weights(path)
    change(path)
    with pytest.raises(UserError, match=r"x\.safetensors (changed|cannot be read)"):
        list(found.read("a"))


def test_a_read_that_ends_early_is_refused(tmp_path, monkeypatch):
    path = weights(tmp_path / "x.safetensors")
    found = open_weights(path)
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(source.Stamp, "check", lambda *_: None)
    with pytest.raises(UserError, match=r"x\.safetensors ended in the middle"):
        list(found.read("a"))


# Any file


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt", "x.bin", "x.weights"])
@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "is empty"),
        (LFS, "Git LFS pointer.*git lfs pull"),
        ("<!DOCTYPE html><p>Où</p>".encode(), r"is text \(a web page\?\)"),
        (b"cposix\nsystem\n(S'touch x'\ntR.", "is text"),
        (bytes(range(256)), "neither safetensors nor|no safetensors file"),
    ],
    ids=["empty", "lfs", "html", "pickle in text", "noise"],
)
def test_files_without_weights_are_refused(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, says)


def test_content_counts_not_the_name(tmp_path):
    assert open_weights(weights(tmp_path / "x.ckpt")).tensors
    assert open_weights(weights(tmp_path / "x")).tensors
    # A header of 0x0280 bytes, so that the file begins like a pickle.
    text = json.dumps({"a": entry(0, 8)}).encode().ljust(0x0280)
    assert open_weights(write(tmp_path / "y", text, bytes(8))).tensors


def test_paths_that_cannot_be_read_are_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist; accepted are")
    os.mkfifo(tmp_path / "pipe.bin")
    refused(tmp_path / "pipe.bin", "neither a file nor a folder")
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = weights(tmp_path / "x.safetensors")
    path.chmod(0)
    refused(path, "cannot be read: Permission denied")


# Folders

PREFERENCE = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "other.safetensors",
]


@pytest.mark.parametrize("best", range(len(PREFERENCE)))
def test_diffusers_folders_are_read_with_their_config(tmp_path, best, monkeypatch):
    monkeypatch.setattr(weights_module, "open_pickle", weights_module.open_safetensors)
    for name in PREFERENCE[best:]:
        weights(tmp_path / name)
    index = tmp_path / PREFERENCE[1]
    if best <= 1:
        shard = weights(tmp_path / "diffusion_pytorch_model-00001-of-00001.safetensors")
        index.write_text(json.dumps({"weight_map": {"a": shard.name}}))
    (tmp_path / "config.json").write_text('{"block_out_channels": [8]}')
    found = open_weights(str(tmp_path))
    assert found.path == tmp_path and found.config == {"block_out_channels": [8]}
    assert found.files == ((shard,) if best == 1 else (tmp_path / PREFERENCE[best],))


@pytest.mark.parametrize("name", ["x.safetensors", "v1.5.fp16.safetensors", "x.ckpt", "x.pth"])
def test_any_single_weight_file_of_a_folder_is_read(tmp_path, name):
    weights(tmp_path / "folder" / name)
    (tmp_path / "folder" / "vocabulary.index.json").write_text("[]")
    assert open_weights(tmp_path / "folder").files == (tmp_path / "folder" / name,)


def test_shards_stand_behind_their_index(tmp_path):
    shard = weights(tmp_path / "diffusion_pytorch_model.fp16-00001-of-00001.safetensors")
    refused(tmp_path, "shards without index")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": shard.name}}))
    assert open_weights(tmp_path).files == (shard,)


def test_the_folder_inside_is_found(tmp_path):
    weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    weights(tmp_path / ".cache" / "x.safetensors")
    assert open_weights(tmp_path).path == tmp_path / "unet"
    weights(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "vae" / "config.json").write_text("{}")
    found = open_weights(tmp_path)
    assert found.path == tmp_path / "vae" and found.config == {}


def test_folders_without_a_choice_are_refused_with_the_candidates(tmp_path):
    refused(tmp_path, "holds no weights, or .*; accepted are")
    (tmp_path / "x.safetensors").mkdir()
    refused(tmp_path / "x.safetensors", "holds no weights")
    for name in ("vae3d", "vae3d_v1-1"):
        weights(tmp_path / name / "x.safetensors")
    refused(tmp_path, "several folders with weights; name one of .*vae3d, .*vae3d_v1-1")
    weights(tmp_path / "vae3d" / "y.safetensors")
    refused(tmp_path / "vae3d", r"several weight files; name one of .*x\.saf.*, .*y\.saf")


@pytest.mark.parametrize(
    "text, says",
    [
        (b"{", "config.json is not valid JSON"),
        (b"[1]", "config.json must be a JSON object, not a list"),
        (b'{"a": 1, "a": 2}', "names 'a' twice"),
        (LFS, "config.json is a Git LFS pointer"),
    ],
)
def test_a_bad_config_is_refused(tmp_path, text, says):
    weights(tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=says):
        open_weights(tmp_path)


# Shards


def sharded(folder: Path, weight_map: object, **shards: str) -> Path:
    """An index beside files whose tensors are the letters of the given words."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        weights(folder / f"{name}.safetensors", *tensors)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


S1, S2 = "s1.safetensors", "s2.safetensors"


def test_shards_are_read_as_one(tmp_path):
    index = sharded(tmp_path, {"a": S1, "c": S2, "b": S1}, s1="ab", s2="c")
    found = open_weights(index)
    assert found.path == index and found.files == (tmp_path / S1, tmp_path / S2)
    assert [name for name, _ in found.read("cab")] == ["a", "b", "c"]


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path):
    weights(tmp_path / "blobs" / "4d7a")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / S1).symlink_to("../blobs/4d7a")
    assert open_weights(sharded(tmp_path / "model", {"a": S1})).tensors


def test_files_that_the_index_does_not_name_are_passed_over(tmp_path):
    assert list(open_weights(sharded(tmp_path, {"a": S1}, s1="a", s2="b")).tensors) == ["a"]


@pytest.mark.parametrize(
    "weight_map, says",
    [
        ({"a": S1, "b": S2, "d": "s3.safetensors"}, r"not beside it: s3\.safetensors"),
        ({"a": S1, "b": S1, "c": S2, "d": S2}, r"disagree: d is not in s2\.safetensors\."),
        ({"a": S1, "c": S2}, r"disagree: b is in s1\.safetensors, but the index"),
        ({"a": S1, "b": S2, "c": S2}, r"disagree: b is in s1\.safetensors, but the index"),
        ({"a": "../s1.safetensors"}, "plain names"),
        ({"a": "/etc/passwd"}, "plain names"),
        ({"a": "..\\s1.safetensors"}, "plain names"),
        ({"a": ".."}, "plain names"),
        ({"a": ""}, "plain names"),
        ({"a": 1}, "plain names"),
        ({}, "weight_map"),
        ([S1], "weight_map"),
    ],
)
def test_an_index_that_its_files_belie_is_refused(tmp_path, weight_map, says):
    refused(sharded(tmp_path / "m", weight_map, s1="ab", s2="c"), says)


@pytest.mark.parametrize(("count", "end"), [(5, "e is not in s1.safetensors."), (6, "; ....")])
def test_an_index_that_is_wrong_about_many_tensors_names_five(tmp_path, count, end):
    said = refused(sharded(tmp_path, dict.fromkeys("zabcdef"[: count + 1], S1), s1="z"), "disagree")
    assert said.count("is not in") == 5 and said.endswith(end)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    index = sharded(tmp_path, {"a": S1, "b": S1, "c": S2}, s1="ab", s2="cb")
    refused(index, r"disagree: b is in both s1\.safetensors and s2\.safetensors\.")


def test_a_damaged_shard_is_refused_by_its_own_name(tmp_path):
    index = sharded(tmp_path, {"a": S1}, s1="a")
    (tmp_path / S1).write_bytes(LFS)
    with pytest.raises(UserError, match=r"s1\.safetensors is a Git LFS pointer"):
        open_weights(index)


@pytest.mark.parametrize(
    "text, says",
    [(b"{", "not valid JSON"), (b"[]", "must be a JSON object"), (LFS, "Git LFS pointer")],
)
def test_a_bad_index_is_refused(tmp_path, text, says):
    path = tmp_path / "x.safetensors.index.json"
    path.write_bytes(text)
    refused(path, says)


def test_a_flood_of_tensors_is_refused_before_they_are_gone_through(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"encoder.down.{i}.weight": entry for i in range(100_001)}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="holds 100,001 tensors"):
        open_weights(path)
