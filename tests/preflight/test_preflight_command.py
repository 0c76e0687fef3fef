"""The whole command, on virtual CPUs and for GPUs, with the tiniest networks; for TPUs where their
compiler is installed."""

import dataclasses
import functools
import json

import jax
import pytest
from tiny_training import DISCRIMINATOR, IMAGE, VIDEO, short_run

from cvvae_jax import hardware, parameter_paths
from cvvae_jax.cli.main import main
from cvvae_jax.config import Bucket, LossConfig, MeshConfig, TrainConfig
from cvvae_jax.errors import UserError
from cvvae_jax.preflight.command import preflight
from cvvae_jax.preflight.compiler import CompileRequest, StepCost, Topology, compile_step
from cvvae_jax.preflight.cost import memory_parts
from cvvae_jax.training.jobs import plan_run, video_shape
from cvvae_jax.training.programs import NAME, AbstractStage, abstract_stages, bytes_per_device

LOSS = LossConfig(lpips_weight=0.0, gan="none")
BUCKET = Bucket(5, 40, 8)  # one of its activations is larger than all parameters
SHAPE = video_shape(BUCKET)


def tiny(folder, **changes) -> TrainConfig:
    config = short_run(folder, str(folder / "missing"))
    networks = {"image_model": IMAGE, "model": VIDEO}
    stage = dataclasses.replace(config.train, buckets=(BUCKET,))
    return dataclasses.replace(config, loss=LOSS, train=stage, **networks, **changes)


@functools.cache
def compiled(folder, topology: str, fsdp: int) -> tuple[AbstractStage, StepCost]:
    config, target = tiny(folder, mesh=MeshConfig(fsdp=fsdp)), Topology.parse(topology)
    plan = plan_run(config, allow_missing=True, devices=target.devices())
    stage = abstract_stages(plan, config)[0]
    return stage, compile_step(CompileRequest(config, topology, 0, "plain", SHAPE), stage, target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("preflight")


@pytest.mark.slow
@pytest.mark.usefixtures("split_small_arrays")
def test_parts_of_memory_are_all_of_it(folder):
    stage, step = compiled(folder, "cpu:8", 8)
    sizes = memory_parts(stage, SHAPE, step.memory)
    assert sum(sizes.values()) == step.memory.total
    parameters = bytes_per_device(stage.state.model, stage.job.mesh)
    assert parameters < 0.2 * 4 * parameter_paths.count(
        stage.state.model
    )  # biases and norms stay whole
    assert sizes["parameters"] == sizes["averages"] == parameters
    assert sizes["moments"] - 2 * parameters in range(64)  # counts, and moments of log-scales
    assert sizes["batch"] == 5 * 40 * 40 * 3 + 5
    assert sizes["padding"] < 100  # numbers of the state that are none of these


@pytest.mark.usefixtures("split_small_arrays")
def test_split_parameters_move_and_activations_stay(folder):
    """A partitioner that is left alone splits activations where parameters are split, and sends
    them."""
    stage, step = compiled(folder, "cpu:8", 8)
    assert {traffic.kind for traffic in step.traffic} <= {"all-reduce", "all-gather"}
    parameters = 4 * parameter_paths.count((stage.state.model, stage.frozen))
    assert parameters < 5 * 40 * 40 * 8 * 4
    assert sum(traffic.bytes for traffic in step.traffic) < 2.5 * parameters


@pytest.mark.parametrize("space", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_program_has_the_name_that_the_compilers_files_are_found_by(folder, space):
    config = tiny(folder, mesh=MeshConfig(space=space))
    stage = abstract_stages(plan_run(config, allow_missing=True), config)[0]
    lowered = stage.programs(config).lower("plain", SHAPE).lowered
    assert NAME in lowered.as_text().split("module @", 1)[1].split()[0]
    assert NAME in lowered.compile().as_text().split("HloModule ", 1)[1].split(",")[0]


def test_estimates_for_gpus_are_not_of_split_frames(folder):
    with pytest.raises(UserError, match=r"mesh\.space must be 1"):
        config = tiny(folder, mesh=MeshConfig(space=2))
        preflight(config, "gpu:8xA100", batches="given", only_shardings=False)


@pytest.mark.slow
def test_traffic_of_equal_parameters_is_one_sum_of_gradients(folder):
    stage, step = compiled(folder, "cpu:8", 1)
    assert {traffic.kind for traffic in step.traffic} == {"all-reduce"}
    gradients = 4 * parameter_paths.count(stage.state.model)
    assert gradients <= step.traffic[0].bytes < 1.1 * gradients + 1000  # and some means


@pytest.fixture
def split_small_arrays(monkeypatch):
    monkeypatch.setattr("cvvae_jax.sharding.SMALLEST_SHARDED", 64)


@pytest.mark.slow
@pytest.mark.usefixtures("split_small_arrays")
def test_command_says_what_a_run_takes(folder, capsys):
    config = tiny(folder, mesh=MeshConfig(fsdp=8))
    preflight(config, "cpu:8", batches="largest", only_shardings=False)
    text = capsys.readouterr().out
    assert f"cpu:8, jax {jax.__version__}" in text
    assert "missing: --image-vae" in text
    assert "bucket of 8 x 5 frames of 40 x 40: 1 per device" in text
    for part in ("plain step", "parameters", "moments", "all-gather", "executed"):
        assert part in text


def test_run_that_does_not_fit_is_told_what_to_change(folder, capsys, monkeypatch):
    small = dataclasses.replace(hardware.CHIPS["A100"], memory=1e4)
    monkeypatch.setitem(hardware.CHIPS, "A100", small)
    preflight(tiny(folder), "gpu:4xA100", batches="given", only_shardings=False)
    text = capsys.readouterr().out
    assert "ESTIMATED" in text and "A100" in text and "DOESN'T FIT" in text
    settings = ["--train.remat", "--train.accumulate up to 2", "--mesh.fsdp 4", "bfloat16", ".size"]
    for setting in settings:
        assert setting in text.split("In this order:")[1]


def test_clips_taken_one_by_one_are_not_split_further(folder, capsys, monkeypatch):
    small = dataclasses.replace(hardware.CHIPS["A100"], memory=1e4)
    monkeypatch.setitem(hardware.CHIPS, "A100", small)
    config = tiny(folder)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    preflight(config, "gpu:8xA100", batches="given", only_shardings=False)
    text = capsys.readouterr().out
    assert "4 are LEFT OUT" in text and "DOESN'T FIT" in text
    assert "--train.accumulate" not in text.split("In this order:")[1]


def test_shardings_are_listed_on_demand(folder, capsys):
    config = tiny(folder, mesh=MeshConfig(fsdp=2), discriminator=DISCRIMINATOR)
    preflight(config, "cpu:8", batches="given", only_shardings=True)
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if "model: decoder/conv_in/kernel" in line)
    assert line.split()[2:] == ["3x3x3x4x8", "whole", f"{3**3 * 4 * 8 * 4:,}"]


def test_errors_are_one_sentence(capsys):
    arguments = ["preflight", "configs/quickstart.py", "--topology", "v9:2x2"]
    assert main(arguments) == 2
    assert "v9:2x2 is no known topology" in capsys.readouterr().err


def test_request_comes_back_from_its_file(folder):
    request = CompileRequest(tiny(folder), "v5e:2x4", 1, "joint", (8, 5, 8, 8, 3))
    request.write(folder / "request.json")
    assert CompileRequest.read(folder / "request.json") == request
    json.loads((folder / "request.json").read_text())


@pytest.mark.slow
def test_stopped_compiler_says_what_a_whole_compile_does(folder):
    pytest.importorskip("libtpu")
    stage, step = compiled(folder, "v5e:2x4", 1)
    whole = stage.programs(tiny(folder)).compile("plain", SHAPE).compiled.memory_analysis()
    assert step.memory.arguments == whole.argument_size_in_bytes
    # Constants are given room of whole pieces of memory.
    assert abs(step.memory.temporaries - whole.temp_size_in_bytes) < 2**16
    assert {traffic.kind for traffic in step.traffic} == {"all-reduce"}
