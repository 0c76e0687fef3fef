"""The networks of Frechet distances are read from their official files, tensor by tensor."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cvvae_jax
from cvvae_jax import parameter_paths
from cvvae_jax.cli.main import main
from cvvae_jax.config import I3DConfig, InceptionConfig
from cvvae_jax.convert.convert import abstract_model, official_shapes
from cvvae_jax.convert.export import WEIGHTS
from cvvae_jax.convert.names import i3d_names, inception_names
from cvvae_jax.errors import UserError
from cvvae_jax.loading import open_model
from cvvae_jax.models.feature_networks import i3d, inception
from cvvae_jax.models.feature_networks.i3d import I3D, Widths
from cvvae_jax.models.feature_networks.inception import InceptionV3, Layer

GOLDEN = Path(__file__).parents[1] / "golden" / "i3d.json"
MODELS = {
    "i3d": (I3D, I3DConfig, i3d_names),
    "inception": (InceptionV3, InceptionConfig, inception_names),
}


def narrow_step(step):
    if isinstance(step, Layer):
        return step._replace(outputs=4)
    return step if isinstance(step, str) else tuple(map(narrow_step, step))


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A few channels in every layer: the files have the official names, but are small."""
    monkeypatch.setattr(i3d, "STEM", (4, 4, 4))
    four = Widths(*[4] * 6)
    levels = tuple(dict.fromkeys(level, four) for level in i3d.LEVELS)
    monkeypatch.setattr(i3d, "LEVELS", levels)
    monkeypatch.setattr(inception, "_STEM_CHANNELS", (4,) * 5)
    monkeypatch.setattr(inception, "BLOCKS", narrow_step(inception.BLOCKS))


@functools.cache
def official_tensors(kind: str) -> dict[str, np.ndarray]:
    model_class, config, rows = MODELS[kind]
    shapes = dict(official_shapes(abstract_model(model_class, config()), rows()).values())
    rng = np.random.default_rng(0)
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def save(kind: str, path: Path, **changes) -> Path:
    """An official file with these tensors in place of its own; None takes one out."""
    tensors = official_tensors(kind) | {name.replace("/", "."): x for name, x in changes.items()}
    save_file({name: x for name, x in tensors.items() if x is not None}, path)
    return path


def test_i3ds_names_are_the_official_ones():
    assert official_tensors("i3d").keys() == json.loads(GOLDEN.read_text())["state_dict"].keys()


def test_inceptions_names_are_those_of_pytorch_fid():
    """Which takes torchvision's network, and changes only what its blocks compute."""
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    names = {name for name in theirs.state_dict() if "num_batches_tracked" not in name}
    assert official_tensors("inception").keys() == names


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_is_where_it_belongs(tmp_path, kind):
    model = cvvae_jax.load(save(kind, tmp_path / "x.safetensors"))
    model_class, _, rows = MODELS[kind]
    assert isinstance(model, model_class)
    official, ours = official_tensors(kind), parameter_paths.flatten(model)
    named = official_shapes(model, rows())
    assert ours.keys() == named.keys()
    for path, (name, _) in named.items():
        expected = official[name]
        if expected.ndim > 1:
            expected = np.moveaxis(expected, (1, 0), (-2, -1))
        np.testing.assert_array_equal(ours[path], expected, err_msg=path)


def test_a_norms_four_vectors_are_told_apart_and_its_counter_left_alone(tmp_path):
    """All four are of one length. Files of newer releases of PyTorch count batches, too."""
    counter = {"Conv3d_1a_7x7/bn/num_batches_tracked": np.array(7)}
    opened = open_model(save("i3d", tmp_path / "x.safetensors", **counter))
    assert opened.left_alone == ("Conv3d_1a_7x7.bn.num_batches_tracked",)
    found = {name: slot.path for name, slot in opened.slots.items() if "4c.b1b.bn" in name}
    assert found == {
        "Mixed_4c.b1b.bn.weight": "levels/01/01/b1b/norm/scale",
        "Mixed_4c.b1b.bn.bias": "levels/01/01/b1b/norm/bias",
        "Mixed_4c.b1b.bn.running_mean": "levels/01/01/b1b/norm/running_mean",
        "Mixed_4c.b1b.bn.running_var": "levels/01/01/b1b/norm/running_var",
    }


def test_the_published_kind_of_pickle_is_read(tmp_path):
    """PyTorch's format from before zip files."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(x) for name, x in official_tensors("i3d").items()}
    torch.save(tensors, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    assert isinstance(cvvae_jax.load(tmp_path / "rgb_imagenet.pt"), I3D)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_converted_goes_back_with_the_official_names(tmp_path, kind, capsys):
    source, ours, back = (str(tmp_path / name) for name in ("x.safetensors", "ours", "back"))
    save(kind, Path(source))
    assert main(["convert", source, ours]) == 0
    assert main(["convert", ours, back]) == 0
    found, official = load_file(Path(back) / WEIGHTS), official_tensors(kind)
    assert found.keys() == official.keys()
    for name, tensor in official.items():
        np.testing.assert_array_equal(found[name], tensor)
    assert "CV-VAE" not in (Path(ours) / "README.md").read_text()


def test_other_networks_are_refused_by_the_tensors_that_differ(tmp_path):
    """Here a fine-tuned I3D of 157 classes with a block more, without one variance."""
    changes = {
        "Mixed_5c/b0/bn/running_var": None,
        "Mixed_5d/b0/conv3d/weight": np.ones((4, 4, 1, 1, 1), np.float32),
        "Mixed_3b/b1a/conv3d/bias": np.ones(4, np.float32),
        "logits/conv3d/bias": np.ones(157, np.float32),
    }
    save("i3d", tmp_path / "x.safetensors", **changes)
    words = (
        r"is no whole Inception-I3D(.|\n)*missing \(1\): Mixed_5c\.b0\.bn\.running_var\n"
        r".*unexpected \(2\): Mixed_3b\.b1a\.conv3d\.bias, Mixed_5d\.b0\.conv3d\.weight\n"
        r".*misshapen \(1\): logits\.conv3d\.bias is \(157,\), must be \(400,\)"
    )
    with pytest.raises(UserError, match=words):
        cvvae_jax.load(tmp_path / "x.safetensors")


def test_torchvisions_own_inception_is_refused(tmp_path):
    changes = {
        "AuxLogits/conv0/conv/weight": np.ones((4, 4, 1, 1), np.float32),
        "fc/bias": np.ones(1000, np.float32),
    }
    save("inception", tmp_path / "x.safetensors", **changes)
    words = (
        r"is no whole InceptionV3 of FID(.|\n)*unexpected \(1\): AuxLogits\.conv0\.conv\.weight\n"
        r".*misshapen \(1\): fc\.bias is \(1000,\), must be \(1008,\)"
    )
    with pytest.raises(UserError, match=words):
        cvvae_jax.load(tmp_path / "x.safetensors")


def test_verification_says_that_it_does_not_know_them(tmp_path, capsys):
    source = str(save("i3d", tmp_path / "x.safetensors"))
    assert main(["convert", source, str(tmp_path / "ours"), "--verify"]) == 2
    assert "--verify knows no computation in PyTorch of Inception-I3D" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
