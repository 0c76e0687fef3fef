"""LPIPS with AlexNet is that of the Python package lpips, read from the files that are public."""

import dataclasses
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_models import random_model
from tiny_training import short_run

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.cli.main import main
from cvvae_jax.config import LossConfig, LPIPSConfig
from cvvae_jax.convert.convert import official_shapes
from cvvae_jax.convert.families import PERCEPTUAL_ALEX, PERCEPTUAL_ALEXNET
from cvvae_jax.convert.names import alex_lpips_names
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.losses import lpips
from cvvae_jax.models.feature_networks import alexnet
from cvvae_jax.models.feature_networks.alexnet import AlexLPIPS
from cvvae_jax.models.inputs import to_float, to_uint8
from cvvae_jax.training.weights import open_lpips

# torchvision's layers: position, inputs, outputs, taps.
LAYERS = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3))
distances = jax.jit(lpips)


def random_video(seed: int, *shape: int) -> jax.Array:
    values = np.random.default_rng(seed).standard_normal((*shape, 3))
    return jnp.asarray(np.tanh(values), jnp.float32)


@pytest.fixture(scope="module")
def network() -> AlexLPIPS:
    """Narrow, to be quick; the heads are plain averages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alexnet, "LAYERS", ((4, 11), (4, 5), (8, 3), (8, 3), (8, 3)))
        found = random_model(AlexLPIPS, LPIPSConfig())
    for head in found.heads:
        head.kernel[...] = jnp.full_like(head.kernel[...], 1 / head.kernel.size)
    return found


def network_tensors() -> dict[str, np.ndarray]:
    """torchvision's AlexNet, with a small classifier."""
    rng = np.random.default_rng(0)
    found = {}
    for position, inputs, outputs, taps in LAYERS:
        kernel = rng.standard_normal((outputs, inputs, taps, taps), np.float32)
        scale = (2 / taps**2 / inputs) ** 0.5
        found[f"features.{position}.weight"] = (kernel * scale).astype(np.float16)
        found[f"features.{position}.bias"] = rng.standard_normal(outputs).astype(np.float16)
    return found | {"classifier.1.weight": np.ones((4, 4), np.float16)}


def head_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"lin{i}.model.1.weight": rng.random((1, layer[2], 1, 1)).astype(np.float16)
        for i, layer in enumerate(LAYERS)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """torchvision's file, and the heads'."""
    folder = tmp_path_factory.mktemp("alexnet")
    save_file(network_tensors(), folder / "alexnet.safetensors")
    save_file(head_tensors(), folder / "alex.safetensors")
    return folder / "alexnet.safetensors", folder / "alex.safetensors"


def test_equal_frames_have_no_distance_and_every_other_frame_its_own(network):
    """Alone, only the order of float32 sums may differ."""
    video, other = random_video(0, 1, 2, 40, 48), random_video(1, 1, 2, 40, 48)
    distance = distances(network, video, other.at[:, 1].set(video[:, 1]))
    assert distance.shape == (1, 2)
    assert distance[0, 1] == 0
    assert distance[0, 0] > 0
    alone = distances(network, video[:, :1], other[:, :1])
    np.testing.assert_allclose(alone, distance[:, :1], rtol=1e-5)


def test_gradient_is_finite_and_leads_away_from_the_distance(network):
    """Also for identical videos, where the distance is smallest."""
    video, other = random_video(0, 1, 1, 40, 48), random_video(1, 1, 1, 40, 48)
    gradient = jax.jit(jax.grad(lambda a, b: lpips(network, a, b).sum()))
    assert jnp.isfinite(gradient(video, video)).all()
    step = gradient(video, other)
    before, after = (distances(network, v, other) for v in (video, video - 1e-2 * step))
    assert after < before


def test_smaller_frames_than_its_windows_are_refused(network):
    """Rather than measured as NaN, the mean of nothing."""
    smallest = random_video(0, 1, 1, 31, 31)
    assert jnp.isfinite(distances(network, smallest, -smallest)).all()
    video = random_video(0, 1, 1, 30, 64)
    with pytest.raises(ValueError, match="31 x 31 pixels and more, not 30 x 64"):
        lpips(network, video, video)


def test_two_files_become_one_model_with_every_tensor_in_its_place(files):
    model = cvvae_jax.load(files[0], lpips_heads=files[1])
    assert isinstance(model, AlexLPIPS)
    official, heads, ours = network_tensors(), head_tensors(), parameter_paths.flatten(model)
    assert len(ours) == 10 + 5
    for i, (position, *_) in enumerate(LAYERS):
        kernel = official[f"features.{position}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ours[f"layers/{i:02d}/kernel"], kernel)
        bias = official[f"features.{position}.bias"]
        np.testing.assert_array_equal(ours[f"layers/{i:02d}/bias"], bias)
        head = heads[f"lin{i}.model.1.weight"][0, :, 0]
        np.testing.assert_array_equal(ours[f"heads/{i:02d}/kernel"], head)


def test_each_half_is_described_with_its_own_remedy(files):
    network, heads = (open_model(path, whole=False) for path in files)
    assert (network.family, heads.family) == (PERCEPTUAL_ALEXNET, PERCEPTUAL_ALEX)
    assert "is AlexNet, LPIPS' network without its heads" in network.incomplete
    assert "v0.1/alex.pth" in network.incomplete
    assert "name torchvision's alexnet-owt-7be5be79.pth" in heads.incomplete


def test_heads_of_the_other_network_are_refused(files, tmp_path):
    others = {f"lin{i}.model.1.weight": c for i, c in enumerate((64, 128, 256, 512, 512))}
    tensors = {name: np.zeros((1, c, 1, 1), np.float16) for name, c in others.items()}
    save_file(tensors, tmp_path / "vgg.safetensors")
    words = r"misshapen \(4\): lin1\.model\.1\.weight is \(1, 128, 1, 1\), must be \(1, 192, 1, 1\)"
    with pytest.raises(UserError, match=words):
        cvvae_jax.load(files[0], lpips_heads=tmp_path / "vgg.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.8.bias": None}, r"missing \(1\): features\.8\.bias"),
        ({"features.12.weight": (8, 8)}, r"unexpected \(1\): features\.12\.weight"),
        ({"features.3.bias": (8,)}, r"misshapen \(1\): features\.3\.bias is \(8,\), must be \(192"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_networks_that_are_not_quite_alexnet_are_refused(files, tmp_path, change, words):
    shapes = {name: x.shape for name, x in network_tensors().items()} | change
    tensors = {name: np.zeros(s, np.float16) for name, s in shapes.items() if s}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"no whole LPIPS with AlexNet(.|\n)*" + words):
        cvvae_jax.load(tmp_path / "x.safetensors", lpips_heads=files[1])


def test_verification_compares_it_with_pytorch(files, tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = ["convert", *map(str, (files[0], tmp_path / "ours")), "--verify"]
    assert main([*arguments, "--lpips-heads", str(files[1])]) == 0
    lines = capsys.readouterr().out.splitlines()[1:7]
    assert [line.split()[0] for line in lines] == [*(f"levels/0{i}" for i in range(5)), "distance"]
    assert all(0 < float(line.split()[1]) < 2e-5 for line in lines)  # order of float32 sums


def test_training_takes_the_papers_network_alone(files, tmp_path, capsys):
    folder = str(tmp_path / "ours")
    assert main(["convert", str(files[0]), folder, "--lpips-heads", str(files[1])]) == 0
    config = dataclasses.replace(short_run(tmp_path, ""), lpips=folder, loss=LossConfig())
    with pytest.raises(UserError, match="holds AlexLPIPS, not LPIPS"):
        open_lpips(config, None)


def test_the_distance_is_that_of_the_package_lpips(tmp_path):
    """Frames are 8-bit, which the package's own `im2tensor` brings to [-1, 1]. The error of sums of
    up to 3456 products in float32, five layers in a row, is far below 1e-4."""
    package = pytest.importorskip("lpips")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of its own arguments
        theirs = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    for head in theirs.lins:
        head.model[1].weight.data.abs_()
    torch.save(theirs.state_dict(), tmp_path / "alex.pth")
    network = cvvae_jax.load(tmp_path / "alex.pth")
    assert isinstance(network, AlexLPIPS)
    for size in ((64, 64), (45, 71)):
        pair = [np.asarray(to_uint8(random_video(i, 1, 2, *size))) for i in range(2)]
        frames = (torch.cat([package.im2tensor(frame) for frame in video[0]]) for video in pair)
        with torch.inference_mode():
            expected = theirs(*frames).numpy().reshape(1, 2)
        np.testing.assert_allclose(distances(network, *map(to_float, pair)), expected, rtol=1e-4)


def test_the_packages_own_heads_are_alexnets():
    """The file that is named in messages."""
    package = pytest.importorskip("lpips")
    pytest.importorskip("torch")
    opened = open_model(Path(package.__file__).parent / "weights/v0.1/alex.pth", whole=False)
    assert opened.family is PERCEPTUAL_ALEX
    wanted = official_shapes(opened.abstract, alex_lpips_names()).values()
    shapes = {name: shape for name, shape in wanted if name.startswith("lin")}
    assert {n: t.shape for n, t in opened.stored_tensors.items()} == shapes
