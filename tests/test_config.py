import subprocess
import sys

import pytest

from cvvae_jax.config import (
    Bucket,
    DataConfig,
    ImageVAEConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
    VideoVAEConfig,
)
from cvvae_jax.errors import UserError
from cvvae_jax.recipe import from_json, load_recipe, parse_train_config, to_json

RECIPE = "configs/quickstart.py"


def test_json_brings_every_setting_back():
    config = load_recipe(RECIPE)
    assert from_json(TrainConfig, to_json(config)) == config


def test_unknown_settings_are_named():
    with pytest.raises(UserError, match="VideoVAEConfig has no setting colour"):
        from_json(VideoVAEConfig, '{"colour": 1}')


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('{"norm_eps": "NaN"}', "norm_eps must be a number, not 'NaN'"),
        ('{"norm_eps": NaN}', "norm_eps must be a number, not nan"),
        ('{"norm_eps": Infinity}', "norm_eps must be a finite number above 0"),
        ('{"norm_eps": 1e-5, "half_3d": 1}', "half_3d must be true or false, not 1"),
        ('{"dtype": "float128"}', 'dtype must be "float32" or "bfloat16" or "float16", not'),
        ('{"decoder_attention": 5}', "decoder_attention must be"),
        ('{"blocks_per_level": 10000000}', "blocks_per_level must be 32 or less"),
        ('{"blocks_per_level": true}', "blocks_per_level must be an integer, not True"),
        ('{"blocks_per_level": 2.0}', "blocks_per_level must be an integer, not 2.0"),
        ('{"block_channels": 128}', "block_channels must be a list of integers"),
        ('{"block_channels": []}', "block_channels must be 1 to 10 numbers"),
        (f'{{"block_channels": {[32] * 99}}}', "block_channels must be 1 to 10"),
        ('{"block_channels": [1073741824]}', "65,536 at most"),
        (f'{{"latent_channels": {"9" * 4000}}}', "latent_channels must be 65,536 or less"),
        (f'{{"latent_channels": {"9" * 5000}}}', "VideoVAEConfig is no JSON"),
        ('{"scaling_factor": 0}', "scaling_factor must be a finite number other than 0"),
        (f'{{"shift_factor": 1{"0" * 400}}}', "shift_factor must be a number"),
        ('{"latents_mean": {"a": 1}}', "latents_mean must be a list of numbers or null"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", r"VideoVAEConfig must be an object, not \[\]"),
        ('{"half_3d": tru', "is no JSON"),
    ],
)
def test_settings_of_another_type_or_out_of_range_are_named(said, words):
    with pytest.raises(UserError, match=words):
        from_json(VideoVAEConfig, said)


def test_settings_that_are_missing_are_named():
    with pytest.raises(UserError, match="Bucket lacks its setting batch, frames"):
        from_json(Bucket, '{"size": 3}')
    assert from_json(Bucket, '{"size": [3, 4], "batch": 1, "frames": 1}').size == (3, 4)


def test_command_line_overrides_the_recipe():
    config = parse_train_config(
        [RECIPE, "--train.steps", "7", "--data.videos", "DIR", "--image-vae", "PATH"]
    )
    assert (config.train.steps, config.data.videos, config.image_vae) == (7, "DIR", "PATH")
    assert config.model == load_recipe(RECIPE).model


def test_help_without_a_recipe_is_the_usage(capsys):
    with pytest.raises(SystemExit) as done:
        parse_train_config(["--help"])
    assert done.value.code == 0
    assert "RECIPE --help documents every setting" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a recipe is missing; usage"),
        (["missing.py"], "missing.py"),
        (["setup.cfg"], "setup.cfg"),
    ],
)
def test_missing_recipes_are_one_sentence(arguments, words):
    with pytest.raises(UserError, match=words):
        parse_train_config(arguments)


def test_strides_that_do_not_fit_the_levels_are_refused():
    with pytest.raises(UserError, match="2 downsamplings"):
        VideoVAEConfig(block_channels=(32, 32, 32))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Bucket(0, 32, 8), "frames must be 1 or more, not 0"),
        (lambda: Bucket(1, 32, 0), "batch must be 1"),
        (lambda: Bucket(1, 16, 4, weight=0.0), "weight"),
        (lambda: Bucket(1, 16, 4, weight=float("nan")), "weight"),
        (lambda: StageConfig(10, (Bucket(1, 16, 4),), accumulate=3), "3 equal parts"),
        (lambda: StageConfig(10, (Bucket(1, 16, 4),), ema_decay=1.0), "ema_decay"),
        (lambda: OptimizerConfig(eps=0.0), "eps"),
        (lambda: OptimizerConfig(beta2=1.0), "beta2"),
        (lambda: OptimizerConfig(clip_norm=0.0), "clip_norm"),
        (lambda: OptimizerConfig(warmup_steps=5, period_steps=5), "period_steps"),
        (lambda: LossConfig(kl_weight=-1.0), "kl_weight"),
        (lambda: LossConfig(gan_weight=float("nan")), "gan_weight must be 0 or more, not nan"),
        (lambda: StageConfig(10, ()), "buckets"),
        (lambda: StageConfig(10, (Bucket(1, 8, 8),), log_every=0), "log_every"),
        (lambda: DataConfig(eval_clips=0), "eval_clips"),
        (lambda: MeshConfig(data=0), "mesh.data"),
        (
            lambda: ImageVAEConfig(block_channels=(8, 12), norm_groups=8),
            "multiples of norm_groups 8",
        ),
    ],
)
def test_impossible_numbers_are_refused_at_once(build, words):
    with pytest.raises(UserError, match=words):
        build()


def test_help_documents_fields_and_starts_no_jax():
    code = (
        "import sys\n"
        "from cvvae_jax.cli.main import main\n"
        f"try:\n    main(['train', '{RECIPE}', '--help'])\n"
        "finally:\n    assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--train.steps" in done.stdout
    assert "Training steps, each on one batch." in done.stdout


def test_user_errors_are_one_line_and_exit_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", RECIPE, "--image-vae", "nowhere", "--workdir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "--image-vae nowhere: no such file or folder" in done.stderr
