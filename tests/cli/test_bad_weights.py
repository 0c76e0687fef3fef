"""Bad weights: one clear sentence, exit status 2, nothing executed, written or lost."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cvvae_jax.cli.main import main
from cvvae_jax.convert.export import WEIGHTS

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads((GOLDEN / "autoencoderkl_sd_tiny.json").read_text())["state_dict"]


class Folder:
    """A sound model in a folder, to be damaged."""

    def __init__(self, path: Path):
        rng = np.random.default_rng(0)
        self.path, self.file = path, path / WEIGHTS
        self.tensors = {name: rng.random(shape, np.float32) for name, shape in SHAPES.items()}
        path.mkdir()
        self.save()

    def save(self) -> None:
        save_file(self.tensors, self.file)

    def cut(self, size: int) -> None:
        self.file.write_bytes(self.file.read_bytes()[:size])

    def header(self) -> tuple[dict, bytes]:
        whole = self.file.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        return json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def write(self, header: bytes, data: bytes, length: int | None = None) -> None:
        size = len(header) if length is None else length
        self.file.write_bytes(struct.pack("<Q", size) + header + data)

    def edit(self, **entry) -> None:
        header, data = self.header()
        header["decoder.conv_out.bias"] |= entry
        self.write(json.dumps(header).encode(), data)


def truncated_at(where: str):
    def damage(folder: Folder) -> None:
        whole = folder.file.stat().st_size
        start = 8 + struct.unpack("<Q", folder.file.read_bytes()[:8])[0]
        places = {"length": 5, "header": start // 2, "data's start": start}
        folder.cut(places.get(where) or {"middle": whole // 2, "end": whole - 1}[where])

    return damage


def header_too_large(folder: Folder) -> None:
    header, data = folder.header()
    folder.write(json.dumps(header).encode(), data, length=2**40)


def negative_offset(folder: Folder) -> None:
    folder.edit(data_offsets=[-12, 0])


def overlapping_offsets(folder: Folder) -> None:
    folder.edit(data_offsets=[4, 16])


def wrong_dtype(folder: Folder) -> None:
    folder.edit(dtype="F64")


def unknown_dtype(folder: Folder) -> None:
    folder.edit(dtype="F99")


def duplicate_keys(folder: Folder) -> None:
    header, data = folder.header()
    name = '"decoder.conv_out.bias":'
    text = json.dumps(header, separators=(",", ":"))
    entry = json.dumps(header["decoder.conv_out.bias"])
    folder.write(text.replace("{", f"{{{name}{entry},", 1).encode(), data)


class Payload:
    """Would leave a file behind if it were run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def payload(folder: Folder) -> None:
    pytest.importorskip("torch", reason="torch is an optional extra")
    folder.file.unlink()
    with zipfile.ZipFile(folder.path / "model.ckpt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Payload(folder.path / "executed"), 2))
        archive.writestr("model/version", "3\n")


def zip_bomb(folder: Folder) -> None:
    pytest.importorskip("torch", reason="torch is an optional extra")
    folder.file.unlink()
    path = folder.path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(50_000_000))


def directory(folder: Folder) -> None:
    folder.file.unlink()
    folder.file.mkdir()


def empty(folder: Folder) -> None:
    folder.cut(0)


def text(folder: Folder) -> None:
    folder.file.write_text("<html>Please log in</html>")


def shards(folder: Folder, name: str) -> None:
    folder.file.rename(folder.path / "shard.safetensors")
    index = {"weight_map": dict.fromkeys(folder.tensors, name)}
    (folder.path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def missing_shard(folder: Folder) -> None:
    shards(folder, "other.safetensors")


def index_outside(folder: Folder) -> None:
    save_file(folder.tensors, folder.path.parent / "outside.safetensors")
    shards(folder, "../outside.safetensors")


def swapped_axes(folder: Folder) -> None:
    kernel = folder.tensors["decoder.conv_in.weight"]
    folder.tensors["decoder.conv_in.weight"] = np.ascontiguousarray(kernel.swapaxes(0, 1))
    folder.save()


def one_missing(folder: Folder) -> None:
    del folder.tensors["decoder.mid_block.resnets.1.conv2.bias"]
    folder.save()


def one_renamed(folder: Folder) -> None:
    bias = folder.tensors.pop("decoder.mid_block.resnets.1.conv2.bias")
    folder.tensors["decoder.mid_block.resnet.1.conv2.bias"] = bias
    folder.save()


def image_and_video(folder: Folder) -> None:
    for name in [name for name in SHAPES if "encoder" in name and "conv1.weight" in name]:
        folder.tensors[name] = folder.tensors[name][:, :, None].repeat(3, axis=2)
    folder.save()


def two_styles_of_names(folder: Folder) -> None:
    folder.tensors["encoder.mid.block_1.norm1.weight"] = np.zeros(64, np.float32)
    folder.save()


def integers(folder: Folder) -> None:
    folder.tensors["decoder.conv_in.bias"] = np.zeros(64, np.int32)
    folder.save()


def config_of_another_model(folder: Folder) -> None:
    settings = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}
    (folder.path / "config.json").write_text(json.dumps(settings))


KINDS = {
    "truncated in its length": (truncated_at("length"), "cut short"),
    "truncated in its header": (truncated_at("header"), "cut short"),
    "truncated before its data": (truncated_at("data's start"), "cut short"),
    "truncated in the middle": (truncated_at("middle"), "cut short"),
    "truncated at its end": (truncated_at("end"), "cut short"),
    "header too large": (header_too_large, "its header has 1,099,511,627,776 bytes"),
    "negative offset": (negative_offset, "-12"),
    "overlapping offsets": (overlapping_offsets, "offset"),
    "wrong dtype": (wrong_dtype, "invalid shape, data type"),
    "unknown dtype": (unknown_dtype, "F99"),
    "duplicate keys": (duplicate_keys, "names 'decoder.conv_out.bias' twice"),
    "payload": (payload, "was not loaded"),
    "zip bomb": (zip_bomb, "compressed"),
    "directory": (directory, "holds no weights"),
    "empty": (empty, "is empty"),
    "text": (text, "is text"),
    "missing shard": (missing_shard, "not beside it: other.safetensors"),
    "index outside": (index_outside, "../outside.safetensors"),
    "swapped axes": (swapped_axes, "decoder.conv_in.weight is (4, 64, 3, 3), must be (64, 4, 3"),
    "one missing": (one_missing, "missing (1): decoder.mid_block.resnets.1.conv2.bias"),
    "one renamed": (one_renamed, "unexpected (1): decoder.mid_block.resnet.1.conv2.bias"),
    "image and video": (image_and_video, "mixes two families"),
    "two styles of names": (two_styles_of_names, "mixes two families"),
    "integers": (integers, "decoder.conv_in.bias is int32"),
    "config of another model": (
        config_of_another_model,
        "contradicts the tensors: block_out_channels is [128, 256, 512, 512]",
    ),
}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("damage", "says"), KINDS.values(), ids=KINDS)
def test_bad_weights_are_refused(tmp_path, capsys, damage, says):
    folder = Folder(tmp_path / "source")
    damage(folder)
    before = snapshot(tmp_path)
    assert main(["convert", str(folder.path), str(tmp_path / "ours")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err and str(tmp_path) in captured.err
    assert says in captured.err
    assert not captured.out
    assert snapshot(tmp_path) == before


def test_the_payload_is_a_real_one(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_all_misfits_are_listed_at_once(tmp_path, capsys):
    folder = Folder(tmp_path / "source")
    swapped_axes(folder)
    one_renamed(folder)
    assert main(["convert", str(folder.path), str(tmp_path / "ours")]) == 2
    message = capsys.readouterr().err
    assert "missing (1)" in message and "unexpected (1)" in message and "misshapen (1)" in message
