"""LPIPS is read from the files that are public: torchvision's VGG16, and the heads of LPIPS."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.cli.main import main
from cvvae_jax.convert.export import WEIGHTS
from cvvae_jax.convert.official_model import open_official
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.losses import lpips
from cvvae_jax.models.feature_networks.vgg import LPIPS

GOLDEN = Path(__file__).parents[1] / "golden" / "lpips.json"
# torchvision's layers of every level of resolution, and their channels.
LEVELS = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)
CHANNELS = (64, 128, 256, 512, 512)


def network_tensors() -> dict[str, np.ndarray]:
    """torchvision's VGG16, with a small classifier: its own has 124 million numbers."""
    rng = np.random.default_rng(0)
    found = {}
    for position, inputs, outputs in sum(LEVELS, ()):
        kernel = rng.standard_normal((outputs, inputs, 3, 3), np.float32)
        found[f"features.{position}.weight"] = kernel * np.float32((2 / 9 / inputs) ** 0.5)
        found[f"features.{position}.bias"] = rng.standard_normal(outputs, np.float32) / 10
    for position in (0, 3, 6):
        found[f"classifier.{position}.weight"] = np.ones((4, 4), np.float32)
        found[f"classifier.{position}.bias"] = np.ones(4, np.float32)
    return found


def head_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"lin{i}.model.1.weight": rng.random((1, channels, 1, 1), np.float32)
        for i, channels in enumerate(CHANNELS)
    }


NETWORK, HEADS = network_tensors(), head_tensors()
CONVOLUTIONS = {name: x for name, x in NETWORK.items() if name.startswith("features.")}


def official_names() -> dict[str, np.ndarray]:
    """The tensors by the names that LPIPS itself has for them."""
    found = dict(HEADS)
    for level, layers in enumerate(LEVELS):
        for position, *_ in layers:
            for leaf in ("weight", "bias"):
                name = f"net.slice{level + 1}.{position}.{leaf}"
                found[name] = NETWORK[f"features.{position}.{leaf}"]
    return found


def assert_holds(model: LPIPS, official: dict[str, np.ndarray] | None = None) -> None:
    """Every parameter is the tensor that belongs there, bit by bit."""
    official = official or NETWORK | HEADS
    ours = parameter_paths.flatten(model)
    assert isinstance(model, LPIPS)
    assert len(ours) == 26 + 5
    for i, layers in enumerate(LEVELS):
        for j, (position, *_) in enumerate(layers):
            kernel = np.moveaxis(official[f"features.{position}.weight"], (2, 3), (0, 1))
            np.testing.assert_array_equal(
                ours[f"levels/{i:02d}/{j:02d}/kernel"].squeeze(), kernel.swapaxes(2, 3)
            )
            np.testing.assert_array_equal(
                ours[f"levels/{i:02d}/{j:02d}/bias"], official[f"features.{position}.bias"]
            )
        np.testing.assert_array_equal(
            ours[f"heads/{i:02d}/kernel"], official[f"lin{i}.model.1.weight"][0, :, 0]
        )


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("torchvision") / "vgg16.safetensors"
    save_file(NETWORK, path)
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "vgg.safetensors"
    save_file(HEADS, path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory, network, heads) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "ours"
    assert main(["convert", str(network), str(folder), "--lpips-heads", str(heads)]) == 0
    return folder


def half(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x.astype(np.float16) for name, x in tensors.items()}


def lines(capsys) -> dict[str, str]:
    text = capsys.readouterr().out.splitlines()
    return dict(line.split(None, 1) for line in text if line.split()[1:])


def torch_save(tensors: dict[str, np.ndarray], path: Path, *, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    found = {name: torch.nn.Parameter(torch.from_numpy(x)) for name, x in tensors.items()}
    torch.save(found, path, _use_new_zipfile_serialization=zipped)


def test_the_official_names_are_those_of_the_golden_file():
    shapes = json.loads(GOLDEN.read_text())["state_dict"]
    assert {name: list(x.shape) for name, x in official_names().items()} == shapes


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_both_formats_become_one_model(tmp_path, zipped):
    """torchvision's file and the heads are pickles in the format from before zip files."""
    torch_save(NETWORK, tmp_path / "vgg16.pth", zipped=zipped)
    torch_save(HEADS, tmp_path / "vgg.pth", zipped=zipped)
    assert_holds(cvvae_jax.load(tmp_path / "vgg16.pth", lpips_heads=tmp_path / "vgg.pth"))


def test_what_is_converted_is_loaded_again(converted):
    assert_holds(cvvae_jax.load(converted))


def test_the_card_names_both_sources(converted, network, heads):
    text = (converted / "README.md").read_text()
    for path, names in ((network, "converted from | vgg16.s"), (heads, "heads from | vgg.s")):
        assert names in text
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "| license | network: not stated; heads: not stated |" in text


def test_back_in_pytorch_it_has_the_names_of_lpips(converted, tmp_path):
    assert main(["convert", str(converted), str(tmp_path / "theirs")]) == 0
    found, official = load_file(tmp_path / "theirs" / WEIGHTS), official_names()
    assert found.keys() == official.keys()
    for name, tensor in official.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_the_command_says_what_it_read(network, heads, capsys):
    assert main(["inspect", str(network), "--lpips-heads", str(heads), "--sha256"]) == 0
    found = lines(capsys)
    assert found["heads"] == str(heads)
    assert found["tensors"] == "31"
    assert found["parameters"] == "14,716,160"
    assert found["left"].endswith("6 other tensors of the file")
    assert found["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    assert found["of"].split()[-1] == hashlib.sha256(heads.read_bytes()).hexdigest()
    assert "incomplete" not in found


def test_one_file_with_both_needs_no_other(tmp_path):
    save_file(half(CONVOLUTIONS | HEADS), tmp_path / "x.safetensors")
    assert_holds(cvvae_jax.load(tmp_path / "x.safetensors"), half(CONVOLUTIONS | HEADS))


@pytest.mark.parametrize("prefix", ["", "loss.perceptual_loss."])
def test_the_lpips_packages_own_state_is_read(tmp_path, prefix):
    """It has every head a second time, and the constants of its scaling."""
    official = half(official_names())
    for i in range(5):
        official[f"lins.{i}.model.1.weight"] = official[f"lin{i}.model.1.weight"]
    official["scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float16)
    save_file({prefix + name: x for name, x in official.items()}, tmp_path / "x.safetensors")
    assert_holds(cvvae_jax.load(tmp_path / "x.safetensors"), half(NETWORK | HEADS))


def test_prefixes_may_differ_and_the_wider_type_is_kept(tmp_path):
    """The network's file has a tensor of the heads' name beside the network, which is not used."""
    beside = {"lin0.model.1.weight": np.zeros((1, 64, 1, 1), np.float16)}
    network = {f"module.{name}": x for name, x in half(NETWORK).items()}
    save_file(network | beside, tmp_path / "vgg16.safetensors")
    save_file(HEADS, tmp_path / "vgg.safetensors")
    model = cvvae_jax.load(
        tmp_path / "vgg16.safetensors", prefix="module.", lpips_heads=tmp_path / "vgg.safetensors"
    )
    assert model.config.param_dtype == "float32"
    assert_holds(model, half(NETWORK) | HEADS)


def test_the_network_alone_is_described_with_its_remedy(network, capsys):
    assert main(["inspect", str(network)]) == 0
    found = lines(capsys)
    assert found["tensors"] == "26"
    assert "VGG16, LPIPS' network without its heads: add --lpips-heads" in found["incomplete"]


def test_the_heads_alone_are_described_with_their_remedy(heads, capsys):
    assert main(["inspect", str(heads)]) == 0
    found = lines(capsys)
    assert found["tensors"] == "5"
    assert "only the heads of LPIPS, not its network: name torchvision's" in found["incomplete"]


def test_half_a_model_is_not_loaded(network, heads):
    with pytest.raises(UserError, match=r"vgg16\.safetensors is VGG16.*add --lpips-heads FILE"):
        cvvae_jax.load(network)
    for added in (None, network):
        with pytest.raises(UserError, match=r"vgg\.safetensors holds only the heads.*--lpips-h"):
            cvvae_jax.load(heads, lpips_heads=added)


def test_half_a_model_is_not_even_opened_unless_asked_for(network):
    """Who opens a model before a long run finds out then, not when it is loaded."""
    with pytest.raises(UserError, match="without its heads"):
        open_model(network)
    opened = open_model(network, whole=False)
    with pytest.raises(UserError, match="without its heads"):
        opened.load(None)


def test_half_a_model_is_not_converted(network, tmp_path, capsys):
    assert main(["convert", str(network), str(tmp_path / "ours")]) == 2
    assert "without its heads: add --lpips-heads" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lambda: NETWORK, "x holds no heads of LPIPS; accepted is"),
        (
            lambda: CONVOLUTIONS | HEADS,
            r"x holds more than the heads .*\(features\.\d",
        ),
        (lambda: official_names(), r"x holds more than the heads .*\(net\.slice"),
        (
            lambda: HEADS | {"lin2.model.1.weight": np.zeros((1, 384, 1, 1), np.float32)},
            r"vgg16\.safetensors with the heads of .*x is no whole LPIPS.*\n  misshapen \(1\): lin2"
            r"\.model\.1\.weight is \(1, 384, 1, 1\), must be \(1, 256, 1, 1\)",
        ),
        (
            lambda: {name: x for name, x in HEADS.items() if "lin3" not in name},
            r"x is no whole .*\n  missing \(1\): lin3\.model\.1\.weight",
        ),
        (
            lambda: HEADS | {"lin5.model.1.weight": HEADS["lin4.model.1.weight"]},
            r"x is no whole .*\n  unexpected \(1\): lin5\.model\.1\.weight",
        ),
        (
            lambda: {name: x.astype(np.int32) for name, x in HEADS.items()},
            r"with the heads of .*x: weights must be .*lin0\.model\.1\.weight is int32",
        ),
    ],
)
def test_other_files_are_no_heads(network, tmp_path, tensors, words):
    save_file(tensors(), tmp_path / "x")
    with pytest.raises(UserError, match=words):
        cvvae_jax.load(network, lpips_heads=tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.28.weight": None, "features.28.bias": None}, r"missing \(2\): features\.28\.b"),
        ({"features.30.weight": (8, 8, 3, 3)}, r"unexpected \(1\): features\.30\.weight"),
        ({"features.1.running_mean": (64,)}, r"unexpected \(1\): features\.1\.running_mean"),
        (
            {"features.0.weight": (64, 4, 3, 3)},
            r"features\.0\.weight is \(64, 4, 3, 3\), must be \(64, 3, 3, 3\)",
        ),
    ],
)
@pytest.mark.parametrize("with_heads", [True, False])
def test_other_networks_are_refused_by_their_own_names(tmp_path, heads, change, words, with_heads):
    shapes = {name: x.shape for name, x in NETWORK.items()} | change
    network = {name: np.zeros(shape, np.float16) for name, shape in shapes.items() if shape}
    save_file(network, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors.* is no whole LPIPS(.|\n)*" + words):
        cvvae_jax.load(tmp_path / "x.safetensors", lpips_heads=heads if with_heads else None)


def test_heads_go_with_nothing_else(tmp_path, tiny_layouts, make_tensors, heads):
    save_file(make_tensors(tiny_layouts["disc3d_tiny"]["tensors"], np.float16), tmp_path / "x")
    with pytest.raises(UserError, match=r"cannot be added: .*x holds another model.*\(3-D discr"):
        cvvae_jax.load(tmp_path / "x", lpips_heads=heads)
    save_file(half(official_names()), tmp_path / "x")
    with pytest.raises(UserError, match=r"cannot be added: .*x holds another model.*\(LPIPS\)"):
        cvvae_jax.load(tmp_path / "x", lpips_heads=heads)


def test_heads_are_not_added_to_a_checkpoint_of_ours(converted, heads):
    with pytest.raises(UserError, match=r"is a checkpoint of ours; LPIPS' heads, "):
        cvvae_jax.load(converted, lpips_heads=heads)


def test_the_target_may_not_hold_the_heads(network, tmp_path, capsys):
    save_file(HEADS, tmp_path / WEIGHTS)
    arguments = [str(network), str(tmp_path), "--lpips-heads", str(tmp_path / WEIGHTS)]
    assert main(["convert", *arguments, "--overwrite"]) == 2
    assert "holds what is to be converted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_the_distance_is_what_torch_computes_from_the_files(converted):
    """torch computes it as the lpips package does, from torchvision's sequence of layers."""
    torch = pytest.importorskip("torch")
    layers, inputs = [], 3
    for width in (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3):
        if width == "M":
            layers.append(torch.nn.MaxPool2d(2, 2))
            continue
        layers += [torch.nn.Conv2d(inputs, width, 3, padding=1), torch.nn.ReLU()]
        inputs = width
    features = torch.nn.Sequential(*layers)
    named = {name.removeprefix("features."): x for name, x in CONVOLUTIONS.items()}
    features.load_state_dict({name: torch.from_numpy(x) for name, x in named.items()})
    images = np.random.default_rng(2).uniform(-1, 1, (2, 3, 48, 32)).astype(np.float32)
    expected = _distance_in_torch(torch, features, torch.from_numpy(images))
    video, other = np.moveaxis(images, 1, -1)[:, None, None]
    with jax.default_matmul_precision("highest"):
        distance = jax.jit(lpips)(cvvae_jax.load(converted), video, other)
    np.testing.assert_allclose(distance, [[expected]], rtol=1e-5)


def _distance_in_torch(torch, features, images) -> float:
    """LPIPS of two images, (2, 3, h, w)."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (images - shift[:, None, None]) / scale[:, None, None]
    taps = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
    total = 0.0
    with torch.inference_mode():
        for position, layer in enumerate(features):
            x = layer(x)
            if position in taps:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                head = torch.from_numpy(HEADS[f"lin{taps[position]}.model.1.weight"])
                total += ((unit[0] - unit[1]) ** 2 * head[0]).sum(0).mean().item()
    return total


def test_verification_reads_both_files_by_their_names(network, heads):
    """`--verify` computes the same whatever the network is called."""
    torch = pytest.importorskip("torch")
    from cvvae_jax.convert.verification import compare, torch_reference

    tensors = dict(compare._torch_tensors(open_official(network, lpips_heads=heads)))
    assert tensors.keys() == (CONVOLUTIONS | HEADS).keys()
    official = {name: torch.from_numpy(x) for name, x in official_names().items()}
    videos = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (2, 1, 3, 2, 32, 32)))
    with torch.inference_mode():
        found = torch_reference.lpips_stages(tensors, *videos.float())
        expected = torch_reference.lpips_stages(official, *videos.float())
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)
            assert theirs.any()
