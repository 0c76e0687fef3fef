"""Files with latents that are damaged, or made to be expensive: one sentence, and soon."""

import io
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from cvvae_jax.errors import UserError
from cvvae_jax.latents.file import LatentsMetadata, LatentsWriter, load_latents, open_latents

VALUES = np.random.default_rng(0).standard_normal((3, 2, 3, 4)).astype(np.float32)
SAID = {"layout": "n y x z", "frames": "9", "height": "16", "width": "24"}


def header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def array(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def archive(path, latents=None, metadata=None, *, packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr("latents.npy", latents or array(VALUES))
        file.writestr("metadata.npy", metadata or array(np.asarray(json.dumps(SAID))))
    return path


def written(path, **facts):
    with LatentsWriter(path) as writer:
        writer.write(VALUES)
        writer.finish(LatentsMetadata(frames=9, height=16, width=24, fps="25", **facts))
    return path


MANY = 70 * 2**20
HOSTILE = {
    "states 16 TiB": lambda path: archive(path, header("(1048576, 1024, 1024, 4)") + b"\0" * 64),
    "is nested too deeply": lambda path: archive(path, header("(" * 5000)),
    "states a long header": lambda path: archive(
        path, b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100_000
    ),
    "has metadata that fill the memory": lambda path: archive(
        path, metadata=header("()", f"<U{MANY // 4}") + b" " * MANY
    ),
    "has metadata with other bytes": lambda path: archive(
        path, metadata=header("()", "<U1000000000") + b" " * 4
    ),
    "has nested metadata": lambda path: archive(path, metadata=array(np.asarray("[" * 100_000))),
    "is packed otherwise": lambda path: archive(path, packed=zipfile.ZIP_LZMA),
    "holds too much": lambda path: archive(
        path, header("(1, 16384, 1120, 1)") + b"\0" * (4 * 16384 * 1120)
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_a_header_states_is_checked_before_it_is_read(tmp_path, how):
    path = HOSTILE[how](tmp_path / "z.npz")
    with pytest.raises(UserError, match=r"z\.npz"):
        load_latents(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_files_that_are_cut_off_are_damaged(tmp_path, suffix, share):
    path = written(tmp_path / f"z.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=rf"z\.{suffix}"):
        load_latents(path)


def test_an_unknown_way_of_packing_is_refused(tmp_path):
    path = archive(tmp_path / "z.npz")
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(signature) + offset
        content[at : at + 2] = (97).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="latents"):
        load_latents(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_no_flipped_bit_gives_other_latents(tmp_path, suffix):
    path = written(tmp_path / f"z.{suffix}", source="a clip.mp4")
    whole, right = path.read_bytes(), load_latents(path)
    refused = 0
    for at in np.random.default_rng(1).choice(len(whole), 60, replace=False):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        try:
            found = load_latents(path)
        except UserError:
            refused += 1
        else:  # in what readers pass over, such as the time in a zip file
            np.testing.assert_array_equal(found.values, right.values)
            assert (found.frames, found.height, found.width) == (9, 16, 24)
    assert refused > 30


def test_only_the_last_part_waits_for_the_checksum(tmp_path):
    path = written(tmp_path / "z.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    parts = open_latents(path).parts(frames=1)
    np.testing.assert_array_equal(next(parts), VALUES[:1])
    next(parts)
    with pytest.raises(UserError, match="match its checksum"):
        next(parts)


def test_files_without_a_checksum_are_read(tmp_path):
    save_file({"latents": VALUES}, tmp_path / "z.safetensors", metadata=SAID)
    np.testing.assert_array_equal(load_latents(tmp_path / "z.safetensors").values[0], VALUES)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_arrays_of_other_programs_are_read(tmp_path, order, save, kind):
    save(tmp_path / "z.npz", latents=np.asarray(VALUES, kind, order=order))
    found = np.concatenate(list(open_latents(tmp_path / "z.npz").parts(frames=2)))
    np.testing.assert_array_equal(found, VALUES.astype(kind).astype(np.float32))


@pytest.mark.parametrize(
    "word",
    [
        {"fps": "1e999999999"},
        {"fps": "0"},
        {"pixel_aspect": "1e999999999"},
        {"pixel_aspect": "-1"},
        {"primaries": "100000"},
        {"scaling_factor": "NaN", "scaled": "true"},
        {"times": "[" * 100_000},
        {"times": '{"rate": "25", "count": 9, "ticks": [0, 1e999]}'},
        {"times": '{"rate": "25", "count": 9, "unit": "1e999999999"}'},
        {"latents_mean": "[" * 100_000},
        {"frames": "9" * 5000},
    ],
)
def test_impossible_words_are_refused_at_once(tmp_path, word):
    save_file({"latents": VALUES}, tmp_path / "z.safetensors", metadata=SAID | word)
    with pytest.raises(UserError, match=r"z\.safetensors: its metadata is damaged"):
        open_latents(tmp_path / "z.safetensors")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_source_that_is_no_utf8_keeps_the_file_readable(tmp_path, suffix):
    path = written(tmp_path / f"z.{suffix}", source="caf\udce9\x1b[2J.mp4")
    assert open_latents(path).metadata.source == "caf\\udce9\\x1b[2J.mp4"
