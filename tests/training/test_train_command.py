"""How `python train.py` ends."""

import pytest

from cvvae_jax.cli.main import main
from cvvae_jax.errors import UserError
from cvvae_jax.processes.stop import Stopped
from cvvae_jax.training import loop


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (None, 0, ""),
        (UserError("no good."), 2, "error: no good.\n"),
        (Stopped("SIGINT", 3, kept=3), 130, "stopped by SIGINT after step 3;"),
        (
            Stopped("SIGTERM", 3, kept=2),
            0,
            "stopped by SIGTERM after step 3; the same command goes on from step 2",
        ),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on"),
    ],
    ids=["done", "mistake", "ctrl-c", "sigterm", "twice-ctrl-c"],
)
def test_exit_code_and_sentence(monkeypatch, capsys, end, code, said):
    def run(config, stop):
        if end is not None:
            raise end

    monkeypatch.setattr(loop, "train", run)
    assert main(["train", "configs/quickstart.py"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(said) and printed.count("\n") == bool(said)
