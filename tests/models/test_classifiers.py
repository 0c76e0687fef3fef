"""I3D and InceptionV3 of their official sizes, and what they refuse."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvvae_jax import parameter_paths
from cvvae_jax.config import I3DConfig, InceptionConfig
from cvvae_jax.convert.convert import abstract_model, from_official
from cvvae_jax.convert.names import inception_names
from cvvae_jax.metrics.frechet import frame_features
from cvvae_jax.models.feature_networks.i3d import I3D
from cvvae_jax.models.feature_networks.inception import InceptionV3
from cvvae_jax.models.feature_networks.layers import FixedBatchNorm
from cvvae_jax.models.inputs import to_float

GOLDEN = Path(__file__).parents[1] / "golden" / "i3d.json"
I3D_SHAPES = abstract_model(I3D, I3DConfig())
INCEPTION_SHAPES = abstract_model(InceptionV3, InceptionConfig())


def video(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *sizes, 3), jnp.float32)


def test_i3d_has_the_official_number_of_parameters():
    shapes = json.loads(GOLDEN.read_text())["state_dict"].values()
    assert parameter_paths.count(I3D_SHAPES) == sum(map(math.prod, shapes))


def test_inception_has_the_official_number_of_parameters():
    """These are torchvision's InceptionV3 without its auxiliary classifier, 8 classes more, and a
    mean and a variance for each of the 17,216 channels of its norms."""
    assert parameter_paths.count(INCEPTION_SHAPES) == 23_834_568 + 8 * 2049 + 2 * 17_216


@pytest.mark.parametrize(("sizes", "steps"), [((9, 193, 193), 1), ((17, 224, 300), 2)])
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
def test_features_are_float32_whatever_the_convolutions_are(network, shapes):
    """Also those of parameters that are kept in half precision."""
    half = abstract_model(network, type(shapes.config)(dtype="bfloat16", param_dtype="float16"))

    def both(network, video):
        return network.features(video), network.logits(video)

    found = jax.eval_shape(both, half, video(9, 224, 224))
    assert {x.dtype.name for x in found} == {"float32"}


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
    """On 8-bit pictures of another size, which its users give it in [0, 1] and it resizes itself;
    sums of up to 3456 products in float32, some forty layers in a row, far below 1e-4."""
    torch = pytest.importorskip("torch")
    network, features = fid_network
    official = {n: x.numpy() for n, x in network.state_dict().items() if "num_batches" not in n}
    ours = from_official(INCEPTION_SHAPES, official, inception_names())
    pictures = np.random.default_rng(1).integers(0, 256, (2, 120, 160, 3), np.uint8)
    with torch.inference_mode():
        images = torch.from_numpy(np.moveaxis(pictures, -1, 1).copy()).float() / 255
        expected = features(images)[0][..., 0, 0]
        logits = network.fc(expected)

    def both(network, video):
        found = frame_features(network, video)
        return found, network.classifier(found)

    both_found = jax.jit(both)(ours, to_float(pictures)[None])
    for found, theirs in zip(both_found, (expected.numpy(), logits.numpy()), strict=True):
        assert found.shape == (1, *theirs.shape)
        assert np.abs(found[0] - theirs).max() <= 1e-4 * np.abs(theirs).max()
