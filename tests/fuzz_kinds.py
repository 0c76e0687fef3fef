"""Good files of every kind that is read, each with its reader, for `fuzz_process.py`."""

import json
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent / "data"))

from latents_of import PlainEncoder, records, write
from prepare_media import pictures, write_video
from tiny_training import IMAGE

from cvvae_jax import parameter_paths
from cvvae_jax.checkpoint import save_model
from cvvae_jax.config import TrainConfig
from cvvae_jax.convert.files import open_weights
from cvvae_jax.data.files import FileList
from cvvae_jax.data.prepare.options import PrepareConfig, PrepareOptions
from cvvae_jax.data.prepare.run import prepare
from cvvae_jax.data.record_shards import RecordShards
from cvvae_jax.data.record_shards import _reader as open_shard
from cvvae_jax.data.tar_shards import TarShards
from cvvae_jax.errors import UserError
from cvvae_jax.latents import dataset
from cvvae_jax.latents.file import LatentsMetadata, LatentsWriter, open_latents
from cvvae_jax.loading import load
from cvvae_jax.models.image_vae import ImageVAE
from cvvae_jax.recipe import from_json, load_recipe, to_json
from cvvae_jax.resumable import manifest
from cvvae_jax.video_io.images import read_image
from cvvae_jax.video_io.video import probe, read_frames


def _config(folder):
    path = folder / "config.json"
    path.write_text(to_json(load_recipe("configs/quickstart.py")))
    return path


def _read_config(path):
    try:
        return from_json(TrainConfig, path.read_text())
    except UnicodeDecodeError as error:  # of this test's own reading
        raise UserError(str(error)) from error


def _latents(suffix):
    def make(folder):
        path = folder / f"z.{suffix}"
        values = np.random.default_rng(0).standard_normal((3, 2, 3, 4)).astype(np.float32)
        with LatentsWriter(path) as writer:
            writer.write(values)
            writer.finish(LatentsMetadata(frames=9, height=16, width=24, fps="25", source="a.mp4"))
        return path

    return make


def _read_latents(path):
    file = open_latents(path)
    return np.concatenate(list(file.parts())), file.metadata


def _list(suffix):
    def make(folder):
        path = folder / f"list.{suffix}"
        names = [f"videos/{i}.mp4" for i in range(20)]
        rows = [json.dumps({"path": n}) for n in names] if suffix == "jsonl" else ["path", *names]
        path.write_text("\n".join(rows) + "\n")
        return path

    return make


def _read_list(path):
    source = FileList(str(path), "video")
    return [source.name(i) for i in range(len(source))]


def _set_of_latents(name, *, format="array_record", checksums=True):
    def make(folder):
        for number in range(3):
            write_video(folder / f"in/{number}.mp4", pictures(9, seed=number))
        write(folder / "in", folder / "out", PlainEncoder(), format=format)
        if not checksums:
            (folder / "out/SHA256SUMS").unlink()
        return next((folder / "out").glob(name))

    return make


def _read_set(path):
    dataset._reader.cache_clear()
    return records(path.parent)


def _prepared(name):
    def make(folder):
        for number in range(2):
            write_video(folder / f"in/{number}.mp4", pictures(9, seed=number))
        config = PrepareConfig(short_side=32)
        prepare(PrepareOptions(str(folder / "in"), str(folder / "out"), config=config, workers=1))
        return next((folder / "out").glob(name))

    return make


def _read_prepared(path):
    open_shard.cache_clear()
    source = RecordShards(str(path.parent), "video")
    return [source[i].data for i in range(len(source))]


def _tar(folder):
    write_video(folder / "a.mp4", pictures(5))
    Image.fromarray(pictures(1)[0]).save(folder / "b.jpg")
    path = folder / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.mp4", "b.jpg"):
            tar.add(folder / name, name)
    return path


def _read_tar(path):
    source = TarShards(str(path), "image")
    return [read_image(source[i]) for i in range(len(source))]


def _image(suffix):
    def make(folder):
        path = folder / f"x.{suffix}"
        Image.fromarray(pictures(1)[0]).save(path)
        return path

    return make


def _video(suffix):
    def make(folder):
        path = folder / f"x.{suffix}"
        write_video(path, pictures(12), options={"g": "5"})
        return path

    return make


def _read_video(path):
    probe(path)
    return sum(1 for _ in read_frames(path))


def _model(name, *, checksums=True):
    """A saved model, of which the largest file of this name is damaged; without `checksums` its
    manifest fits the damaged file, as an attacker's does."""

    def make(folder):
        model = jax.jit(lambda key: ImageVAE(IMAGE, rngs=nnx.Rngs(key)))(jax.random.key(0))
        save_model(folder / "saved", model)
        return max((folder / "saved").glob(name), key=lambda path: path.stat().st_size)

    def read(path):
        folder = path.parents[name.count("/")]
        if not checksums:
            manifest.write(folder)
        return parameter_paths.flatten(load(folder))

    return make, read, checksums


def _pickle(zipped):
    def make(folder):
        import torch

        tensors = {f"encoder.{i}": torch.full((2, i + 1), float(i)) for i in range(9)}
        state = {"state_dict": tensors, "epoch": 3}
        torch.save(state, folder / "x.ckpt", _use_new_zipfile_serialization=zipped)
        return folder / "x.ckpt"

    return make, _read_weights, False


def _weights(folder):
    path = folder / "x.safetensors"
    save_file({f"encoder.{i}": np.full((2, i + 1), i, np.float32) for i in range(9)}, path)
    return path


def _read_weights(path):
    files = open_weights(path)
    return dict(files.read(files.tensors))


KINDS = {
    "config": (_config, _read_config, False),
    "latents in npz": (_latents("npz"), _read_latents, True),
    "latents in safetensors": (_latents("safetensors"), _read_latents, True),
    "list as csv": (_list("csv"), _read_list, False),
    "list as jsonl": (_list("jsonl"), _read_list, False),
    "index of latents": (_set_of_latents("index.jsonl"), _read_set, True),
    "unguarded index of latents": (
        _set_of_latents("index.jsonl", checksums=False),
        _read_set,
        False,
    ),
    "unguarded statistics": (_set_of_latents("statistics.json", checksums=False), _read_set, False),
    "unguarded settings": (_set_of_latents("latents.json", checksums=False), _read_set, False),
    "checksums": (_set_of_latents("SHA256SUMS"), _read_set, True),
    "array_record of latents": (_set_of_latents("*.array_record"), _read_set, True),
    "tar of latents": (_set_of_latents("*.tar", format="webdataset"), _read_set, True),
    "index of media": (_prepared("index.jsonl"), _read_prepared, True),
    "array_record of media": (_prepared("*array_record*"), _read_prepared, True),
    "tar of media": (_tar, _read_tar, False),
    "png": (_image("png"), read_image, False),
    "jpeg": (_image("jpg"), read_image, False),
    "webp": (_image("webp"), read_image, False),
    "tiff": (_image("tif"), read_image, False),
    "mp4": (_video("mp4"), _read_video, False),
    "mkv": (_video("mkv"), _read_video, False),
    "weights": (_weights, _read_weights, False),
    "pickle in a zip archive": _pickle(True),
    "pickle of the old format": _pickle(False),
    "manifest of a model": _model("manifest.json"),
    "arrays of a model": _model("weights/ocdbt.process_0/d/*"),
    "unguarded description of a model": _model("model/metadata", checksums=False),
    "unguarded names of arrays": _model("weights/_METADATA", checksums=False),
    "unguarded places of arrays": _model("weights/_sharding", checksums=False),
    "unguarded manifest of arrays": _model("weights/manifest.ocdbt", checksums=False),
    "unguarded index of arrays": _model("weights/d/*", checksums=False),
    "unguarded arrays": _model("weights/ocdbt.process_0/d/*", checksums=False),
}
"""By name: what makes the file in a folder, what reads it, and whether a mutation that isn't
refused must give exactly what the good file gives, as with checksums."""
