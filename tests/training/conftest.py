"""What tests of whole runs share."""

import pytest
from tiny_training import frozen_networks

from cvvae_jax.checkpoint import save_model
from cvvae_jax.training import loop


@pytest.fixture(scope="session")
def image_vae(tmp_path_factory) -> str:
    """The folder of a random one."""
    folder = tmp_path_factory.mktemp("image_vae") / "model"
    save_model(folder, frozen_networks().image_vae)
    return str(folder)


@pytest.fixture
def no_evaluations(monkeypatch) -> None:
    """Where they are not the point: their programs take longer than the rest of a short run."""
    monkeypatch.setattr(loop.Progress, "evaluation", lambda *_: None)
    monkeypatch.setattr(loop, "report", lambda *_: {})
