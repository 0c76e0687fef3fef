"""The folder of an evaluation: begun once, by any number of processes."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.errors import UserError
from cvvae_jax.evaluation.contenders import baseline_contender, model_contender, named_path
from cvvae_jax.evaluation.store import Store
from cvvae_jax.resumable.share import Share

SETTINGS = {"protocol": {"metrics": ("psnr",)}, "data": 1}


def begin(folder) -> str:
    try:
        folder.mkdir(exist_ok=True)
        Store(folder).begin(SETTINGS)
    except UserError as error:
        return str(error)
    return ""


def test_share_that_is_at_work_keeps_a_second_one_out_and_is_named(tmp_path):
    """Other shares of the same evaluation go on beside it."""
    share, other = Share(0, 2), Share(1, 2)
    with Store(tmp_path).kept_by(share):
        before = sorted(tmp_path.iterdir())
        busy = rf"process 0 of 2 is at work on .* already \(process {os.getpid()} on .*, since "
        with pytest.raises(UserError, match=busy), Store(tmp_path).kept_by(share):
            pass
        assert sorted(tmp_path.iterdir()) == before
        with Store(tmp_path).kept_by(other):
            pass
    with Store(tmp_path).kept_by(share):
        pass


def test_processes_that_begin_together_all_begin(tmp_path):
    folders = [tmp_path / str(i) for i in range(40) for _ in range(3)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert set(pool.map(begin, folders, chunksize=1)) == {""}


def test_what_a_kill_leaves_of_the_first_write_is_no_obstacle(tmp_path):
    (tmp_path / ".evaluation.json.0123").write_text("{")
    Store(tmp_path).begin(SETTINGS)
    Store(tmp_path).begin(SETTINGS)


def test_damaged_scores_are_named(tmp_path):
    store = Store(tmp_path)
    store.write("a", 3, {"mse": np.ones(4)})
    np.testing.assert_array_equal(store.read("a", 3)["mse"], np.ones(4))
    path = tmp_path / "scores" / "a" / "000003.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"000003\.npz is damaged: remove it"):
        store.read("a", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tiny_runs import save_models

    return model_contender(save_models(tmp_path_factory.mktemp("models"))["video"])


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "_input", ""])
def test_names_that_are_no_folders_are_refused(tmp_path, model, name):
    with pytest.raises(UserError, match="can't name a contender"):
        Store(tmp_path).enter(dataclasses.replace(model, name=name))


def test_baseline_of_another_compression_is_another_contender(tmp_path, model):
    store, other = Store(tmp_path), dataclasses.replace(model, temporal_compression=4)
    store.enter(baseline_contender("linear", model))
    store.write("linear", 0, {})
    store.enter(baseline_contender("linear", model))
    with pytest.raises(UserError, match="linear had other temporal_compression when"):
        store.enter(baseline_contender("linear", other))


def test_path_that_is_there_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert named_path("a=b")[0] == "a=b"
    assert named_path("c=b") == ("c", type(tmp_path)("b"))
    assert named_path("runs/x=1/model")[0] == "model"


def test_recipe_stands_for_its_run_folder(tmp_path):
    recipe, run = tmp_path / "mine.py", tmp_path / "runs" / "first"
    quickstart = str(Path(__file__).parents[2] / "configs" / "quickstart.py")
    recipe.write_text(
        "import dataclasses\nfrom cvvae_jax.recipe import load_recipe\ndef get_config():\n"
        f"    return dataclasses.replace(load_recipe({quickstart!r}), workdir={str(run)!r})\n"
    )
    with pytest.raises(UserError, match=r"mine\.py has not been run: there is no folder"):
        named_path(str(recipe))
    run.mkdir(parents=True)
    assert named_path(str(recipe)) == ("first", run)
