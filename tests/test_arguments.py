"""What a user gets who misspells an option, a command, a recipe or a model."""

import os

import pytest

import cvvae_jax
from cvvae_jax.arguments import nearest
from cvvae_jax.checkpoint import items
from cvvae_jax.cli.main import main
from cvvae_jax.errors import UserError

OF_TRAINING = [
    "train.optimizer.learning-rate",
    "train.gan-optimizer.learning-rate",
    "train.steps",
    "loss.gan-weight",
    "data.flip",
    "seed",
]


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("optimizer.lr", "train.optimizer.learning-rate"),
        ("train.optimizer.learning-rat", "train.optimizer.learning-rate"),
        ("lr", "train.optimizer.learning-rate"),
        ("steps", "train.steps"),
        ("train.step", "train.steps"),
        ("gan-weight", "loss.gan-weight"),
        ("weight", "loss.gan-weight"),
        ("flp", "data.flip"),
        ("sede", "seed"),
    ],
)
def test_the_nearest_name_is_found(word, first):
    assert nearest(word, OF_TRAINING)[0] == first


def test_what_is_like_nothing_has_no_name_near_it():
    assert nearest("cheese", OF_TRAINING) == [] and nearest("train", []) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("reconstruct a b --weight x", "there is no option --weight: did you mean --weights?"),
        ("encode a b --wieghts=x", "there is no option --wieghts: did you mean --weights?"),
        ("decode a b --weights x --mod image", "did you mean --mode?"),
        ("latents a b --weigths x", "did you mean --weights?"),
        ("evaluate a --dat x --protocol y", "did you mean --data?"),
        ("inspect a --tensor", "did you mean --tensors?"),
        ("convert a b --verfy", "did you mean --verify?"),
        ("data check a --worker 3", "did you mean --workers?"),
        ("data prepare a b --shardmb 3", "did you mean --shard-mb?"),
        ("preflight quickstart --topolgy cpu:1", "did you mean --topology?"),
        ("train quickstart --optimizer.lr 3", "mean --train.optimizer.learning-rate or"),
        ("data show a.png quickstart --data.video b", "did you mean --data.videos?"),
        ("reconstruct a b --weights c --cheese d", "no option --cheese: `"),
        ("trian quickstart", "there is no command trian; did you mean train?"),
        ("data shwo a.png", "`data` has no command shwo; did you mean show?"),
        ("train quickstrat", "quickstrat is not a recipe: .* Did you mean quickstart?"),
    ],
)
def test_misspelled_options_of_every_command_are_named(command, said, capsys):
    assert main(command.split()) == 2
    printed = capsys.readouterr().err
    before, _, after = said.partition(".*")
    assert before in printed and after in printed and len(printed.splitlines()) == 1


def test_other_mistakes_are_explained_by_tyro(capsys):
    with pytest.raises(SystemExit) as left:
        main(["latents", "a", "b"])
    assert left.value.code == 2
    assert "Missing from" in capsys.readouterr().err


def test_flags_and_their_opposites_are_no_mistakes(capsys):
    """The mistake is a value that is none."""
    with pytest.raises(SystemExit):
        main(["train", "quickstart", "--data.no-flip", "--data.max_stride", "x"])
    assert "data.max-stride" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["60", "80", "140", "200"])
def test_terminals_of_any_width_have_the_same_options(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):  # a wrong value alone, so that no option is missing
        main(["train", "quickstart", "--image-train.steps", "20", "--train.steps", "10x"])
    assert "no option" not in capsys.readouterr().err
    assert main(["train", "quickstart", "--train.step", "20"]) == 2
    assert "did you mean --train.steps" in capsys.readouterr().err
    assert os.environ["COLUMNS"] == columns


def test_train_alone_explains_itself_in_a_few_lines(capsys):
    assert main(["train"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: a recipe is missing." and len(lines) <= 12
    commands = [
        line.split("train ")[1] for line in lines if line.startswith("  ") and "train " in line
    ]
    assert commands == ["quickstart", "quickstart --data.videos DIR --workdir runs/mine"]


def test_help_of_data_show_is_help(capsys):
    assert main(["data", "show", "--help"]) == 0
    said = capsys.readouterr().out
    for word in ("usage: ", "Write a picture", "OUTPUT.png ", "RECIPE ", "--overwrite "):
        assert word in said


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two run folders whose checkpoints are empty, and a folder of something else."""
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "mine"):
        for item in ("weights", "model"):
            (tmp_path / "runs" / name / "checkpoints" / "3" / item).mkdir(parents=True)
    (tmp_path / "runs" / "notes").mkdir()
    assert items.find_model("runs/mine") is not None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("runs/quickstrat", "accepted are a run folder, .* Did you mean runs/quickstart?"),
        ("runs", "Models are in runs/mine and runs/quickstart."),
        ("runs/notes", "runs/notes holds no weights"),
        ("elsewhere/quickstart", "does not exist; accepted are a run folder"),
    ],
)
def test_models_nearby_are_named(runs, path, said):
    with pytest.raises(UserError) as refused:
        cvvae_jax.load(path)
    before, _, after = said.partition(" .* ")
    assert before in str(refused.value) and after in str(refused.value)
    assert ("mean" in str(refused.value)) == ("mean" in said)
