"""Which image files are read, and that their samples keep their meaning."""

import io
import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from cvvae_jax.data.check import fault
from cvvae_jax.data.sources import open_source
from cvvae_jax.errors import UserError
from cvvae_jax.video_io import images, video

pytestmark = pytest.mark.stack

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
GREYS = np.array([[0, 51, 128], [200, 254, 255]], np.uint8)


def saved(format: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 16), 200).save(file, format)
    return file.getvalue()


OTHERS = {
    "postscript": lambda: POSTSCRIPT,
    "fits": lambda: b"SIMPLE  =                    T".ljust(2880),
    "photoshop": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(216),
    **{
        name: lambda name=name: saved(name)
        for name in ("GIF", "ICO", "PPM", "TGA", "PCX", "PDF", "JPEG2000", "SGI", "ICNS")
    },
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path, kind, suffix, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(OTHERS[kind]())
    accepted = "PNG, JPEG, WebP, BMP, TIFF and AVIF"
    with pytest.raises(UserError, match=rf"photo\{suffix} cannot be read as an image.*{accepted}"):
        list(video.read_frames(path))
    assert accepted in fault(open_source(str(tmp_path), "image"), 0)


def test_every_documented_suffix_has_its_format():
    Image.init()
    formats = {Image.EXTENSION[suffix] for suffix in images.IMAGE_SUFFIXES}
    assert formats == set(images.FORMATS)


@pytest.mark.parametrize("format", images.FORMATS)
def test_a_mislabelled_image_is_read_as_what_it_is(tmp_path, format):
    name = "photo.png" if format != "PNG" else "photo.jpg"
    (tmp_path / name).write_bytes(saved(format))
    assert images.read_image(tmp_path / name).shape == (16, 16, 3)


def test_a_jpeg_with_a_second_picture_shows_the_first(tmp_path):
    first, second = Image.new("RGB", (16, 8), "white"), Image.new("RGB", (16, 8))
    first.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[second])
    assert images.read_image(tmp_path / "stereo.jpg").min() > 250


def tiff(
    path, samples, *, bits=None, white_is_zero=False, signed=False, big_endian=False, alpha=False
):
    """A grey TIFF without compression, written field by field.

    With `alpha` samples are (height, width, 2): grey times alpha, and alpha.
    """
    order = ">" if big_endian else "<"
    samples = samples.astype(samples.dtype.newbyteorder(order))
    height, width = samples.shape[:2]
    data = samples.tobytes() if bits != 12 else _packed(samples)
    depth = bits or 8 * samples.itemsize
    kind = 3 if samples.dtype.kind == "f" else 2 if signed else 1
    fields = {256: [width], 257: [height], 258: [depth] * (1 + alpha), 259: [1]}
    fields |= {262: [0 if white_is_zero else 1], 273: [8], 277: [1 + alpha], 278: [height]}
    fields |= {279: [len(data)]} | ({338: [1]} if alpha else {}) | {339: [kind] * (1 + alpha)}
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, len(values), *[*values, 0][:2])
        for tag, values in fields.items()
    )
    head = b"MM\0*" if big_endian else b"II*\0"
    directory = struct.pack(f"{order}H", len(fields)) + entries + bytes(4)
    path.write_bytes(head + struct.pack(f"{order}I", 8 + len(data)) + data + directory)


def _packed(samples):
    """Pairs of 12 bits in three bytes, as TIFF packs them."""
    bits = np.unpackbits(samples.astype(">u2")[..., None].view(np.uint8), axis=-1)
    return np.packbits(bits[..., 4:].reshape(len(samples), -1), axis=-1).tobytes()


def greys(path):
    frame = images.read_image(path)
    assert (frame == frame[..., :1]).all()
    return frame[..., 0]


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("scale", [1 / 255, 1])
def test_floating_point_samples_are_scaled(tmp_path, scale, big_endian):
    path = tmp_path / "float.tif"
    tiff(path, (GREYS * np.float32(scale)).astype(np.float32), big_endian=big_endian)
    np.testing.assert_array_equal(greys(path), GREYS)


def test_black_and_white_as_numbers_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[0, 1]], np.float32)).save(tmp_path / "mask.tif")
    assert greys(tmp_path / "mask.tif").tolist() == [[0, 255]]


@pytest.mark.parametrize("samples", [[0, 1.5], [-0.1, 1], [0, 65535], [0, np.nan], [0, np.inf]])
def test_floating_point_samples_of_another_range_are_refused(tmp_path, samples):
    Image.fromarray(np.array([samples], np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif has floating-point samples from .*0 to 255"):
        images.read_image(tmp_path / "float.tif")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_integers_without_a_known_range_are_refused(tmp_path, dtype):
    tiff(tmp_path / "deep.tif", (GREYS // 2).astype(dtype), signed=np.dtype(dtype).kind == "i")
    with pytest.raises(UserError, match=r"deep\.tif has samples that are signed or of 32 bits"):
        images.read_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiffs_with_white_at_zero_are_no_negatives(tmp_path, dtype):
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    tiff(tmp_path / "x.tif", full - (GREYS / 255 * full).astype(dtype), white_is_zero=True)
    np.testing.assert_array_equal(greys(tmp_path / "x.tif"), GREYS)


def test_twelve_bits_fill_the_range(tmp_path):
    deep = np.array([[0, 2048, 4095, 1000]], np.uint16)
    tiff(tmp_path / "twelve.tif", deep, bits=12)
    assert greys(tmp_path / "twelve.tif").tolist() == [[0, 128, 255, 62]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_rounded(tmp_path, suffix):
    deep = np.arange(0, 65536, 13, dtype=np.uint16)[None]
    Image.fromarray(deep).save(tmp_path / f"deep{suffix}")
    np.testing.assert_array_equal(greys(tmp_path / f"deep{suffix}"), np.rint(deep / 257))


@pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow 12 reads no such file")
def test_grey_times_alpha_is_divided_by_it(tmp_path):
    tiff(tmp_path / "associated.tif", np.full((2, 2, 2), [25, 128], np.uint8), alpha=True)
    assert np.abs(greys(tmp_path / "associated.tif").astype(int) - 50).max() <= 1


def test_lab_is_converted(tmp_path):
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "white.tif")
    assert images.read_image(tmp_path / "white.tif").min() >= 254


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_orientation_is_applied(tmp_path, suffix, orientation):
    frame = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(frame).save(tmp_path / f"photo{suffix}", exif=exif, **options)
    upright = np.rot90(frame, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])
    if orientation in (2, 4):
        upright = upright[:, ::-1]
    if orientation in (5, 7):  # mirrored first, then turned
        upright = np.rot90(frame[:, ::-1], {5: 1, 7: -1}[orientation])
    np.testing.assert_array_equal(images.read_image(tmp_path / f"photo{suffix}"), upright)


def test_tiffs_whose_bytes_pillow_mixes_up_are_refused(tmp_path):
    write = pytest.importorskip("tifffile").imwrite
    planes = np.zeros((3, 8, 8), np.uint16)
    write(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    options = {"photometric": "minisblack", "byteorder": ">", "compression": "zlib"}
    write(tmp_path / "packed.tif", np.ones((8, 8), np.float32), **options)
    for name in ("planes.tif", "packed.tif"):
        with pytest.raises(UserError, match=rf"{name} is a TIFF of .* save it in another way"):
            images.read_image(tmp_path / name)
