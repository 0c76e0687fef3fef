"""I3D and InceptionV3 of their official sizes, and what they refuse."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax import paths
from cvvae_jax.config import I3DConfig, InceptionConfig
from cvvae_jax.convert.convert import from_official
from cvvae_jax.convert.families import abstract_model
from cvvae_jax.convert.names import inception_rows
from cvvae_jax.models.i3d import I3D
from cvvae_jax.models.inception import InceptionV3
from cvvae_jax.models.normed_conv import FixedBatchNorm

GOLDEN = Path(__file__).parents[1] / "golden" / "i3d.json"
I3D_SHAPES = abstract_model(I3D, I3DConfig())
INCEPTION_SHAPES = abstract_model(InceptionV3, InceptionConfig())


def video(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *sizes, 3), jnp.float32)


def test_i3d_has_the_official_number_of_parameters():
    shapes = json.loads(GOLDEN.read_text())["state_dict"].values()
    assert paths.count(I3D_SHAPES) == sum(map(math.prod, shapes))


def test_inception_has_the_official_number_of_parameters():
    """Those of torchvision's InceptionV3 without its auxiliary classifier, 8 classes more, and a
    mean and a variance for each of the 17,216 channels of its norms."""
    assert paths.count(INCEPTION_SHAPES) == 23_834_568 + 8 * 2049 + 2 * 17_216


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [((16, 224, 224), 1), ((9, 193, 193), 1), ((17, 224, 300), 2), ((64, 224, 224), 7)],
)
def test_i3d_has_logits_for_every_step_in_time(sizes, steps):
    found = jax.eval_shape(I3D.logits, I3D_SHAPES, video(*sizes))
    assert found.shape == (2, steps, 400)


@pytest.mark.parametrize("sizes", [(8, 224, 224), (16, 192, 224), (16, 224, 192)])
def test_i3d_refuses_what_fills_no_window(sizes):
    with pytest.raises(ValueError, match=r"I3D takes 9 frames of 193 x 193 pixels and more, not"):
        jax.eval_shape(I3D.features, I3D_SHAPES, video(*sizes))


def test_inception_refuses_what_leaves_nothing():
    found = jax.eval_shape(InceptionV3.features, INCEPTION_SHAPES, video(3, 75, 75))
    assert found.shape == (2, 3, 2048)
    with pytest.raises(ValueError, match=r"InceptionV3 takes frames of 75 x 75 .* not 74 x 299"):
        jax.eval_shape(InceptionV3.features, INCEPTION_SHAPES, video(3, 74, 299))


@pytest.mark.parametrize(
    ("network", "shapes"), [(I3D, I3D_SHAPES), (InceptionV3, INCEPTION_SHAPES)]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_features_are_float32_whatever_the_convolutions_are(network, shapes, dtype):
    half = abstract_model(network, type(shapes.config)(dtype=dtype, param_dtype=dtype))
    for function in (network.features, network.logits):
        assert jax.eval_shape(function, half, video(9, 224, 224)).dtype == jnp.float32


def test_a_batch_norm_takes_its_statistics_as_they_are():
    """Whatever the batch holds; the epsilon is 1e-3, and float32 rounds to 6e-8."""
    norm = FixedBatchNorm(3, param_dtype=jnp.dtype("float32"))
    values = {
        "scale": [1, 2, 3],
        "bias": [0, 1, -1],
        "running_mean": [5, 0, -2],
        "running_var": [4, 0, 1e-3],
    }
    for name, value in values.items():
        getattr(norm, name)[...] = jnp.asarray(value, jnp.float32)
    batch = np.random.default_rng(0).standard_normal((2, 2, 3, 3, 3)).astype(np.float32)
    scale, bias, mean, var = (np.asarray(value, np.float64) for value in values.values())
    expected = (batch - mean) / np.sqrt(var + 1e-3) * scale + bias
    np.testing.assert_allclose(norm(jnp.asarray(batch)), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def fid_network():
    """pytorch-fid's network, whose published weights are not fetched, with random ones."""
    reference = pytest.importorskip("pytorch_fid.inception")
    torch = pytest.importorskip("torch")
    inception3 = reference.torchvision.models.Inception3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception3, "load_state_dict", lambda *_, **__: None)
        network = reference.fid_inception_v3().eval()
        patch.setattr(reference, "fid_inception_v3", lambda: network)
        features = reference.InceptionV3().eval()
    rng = np.random.default_rng(0)
    state = {}
    for name, tensor in network.state_dict().items():
        x = rng.standard_normal(tuple(tensor.shape))
        if name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif x.ndim > 1:
            x = x * (2 / x[0].size) ** 0.5
        else:
            x = 0.1 * x + name.endswith("weight")
        state[name] = torch.as_tensor(x).to(tensor.dtype)
    network.load_state_dict(state)
    return network, features


def test_inception_is_pytorch_fids(fid_network):
    """Sums of up to 3456 products in float32, some forty layers in a row, far below 1e-4."""
    torch = pytest.importorskip("torch")
    network, features = fid_network
    official = {n: x.numpy() for n, x in network.state_dict().items() if "num_batches" not in n}
    ours = from_official(INCEPTION_SHAPES, official, inception_rows())
    frames = np.random.default_rng(1).uniform(-1, 1, (2, 299, 299, 3)).astype(np.float32)
    with torch.inference_mode():
        images = torch.from_numpy(np.moveaxis(frames, -1, 1).copy())
        expected = features((images + 1) / 2)[0][..., 0, 0]
        logits = network.fc(expected)
    for found, theirs in (
        (jax.jit(InceptionV3.features)(ours, frames[None]), expected.numpy()),
        (jax.jit(InceptionV3.logits)(ours, frames[None]), logits.numpy()),
    ):
        assert found.shape == (1, *theirs.shape)
        assert np.abs(found[0] - theirs).max() <= 1e-4 * np.abs(theirs).max()
