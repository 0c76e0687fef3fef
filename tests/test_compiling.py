"""Compiled programs are kept between starts, and said before they are waited for."""

import os
import re
import subprocess
import sys
import time
import types
import zlib
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

from cvvae_jax import compiling
from cvvae_jax.cli import program
from cvvae_jax.cli.main import main
from cvvae_jax.cli.video_commands import speed
from cvvae_jax.compiling import Stopwatch, announced, compile_program, tidy

ROOT = Path(__file__).parents[1]
LONG_AGO = time.time() - 10_000


def entry(folder, name, content, *, used=LONG_AGO):
    path = folder / f"{name}-cache"
    path.write_bytes(content)
    os.utime(path, (used, used))
    return path


def left(folder):
    return {path.name.removesuffix("-cache") for path in folder.glob("*-cache")}


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for number in range(4):
        entry(tmp_path, f"p{number}", zlib.compress(os.urandom(1000)), used=LONG_AGO + number)
    tidy(tmp_path, most_bytes=2500)
    assert left(tmp_path) == {"p2", "p3"}


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path):
    whole = zlib.compress(os.urandom(1000))
    entry(tmp_path, "whole", whole)
    entry(tmp_path, "part", whole[:500])
    entry(tmp_path, "empty", b"")
    entry(tmp_path, "now", whole[:500], used=time.time())
    tidy(tmp_path)
    assert left(tmp_path) == {"whole", "now"}


def test_entries_are_unpacked_once(tmp_path, monkeypatch):
    entry(tmp_path, "whole", zlib.compress(b"x"))
    unpacked = []
    monkeypatch.setattr(compiling, "_is_whole", lambda path: unpacked.append(path) or True)
    for _ in range(3):
        tidy(tmp_path)
    assert len(unpacked) == 1


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """As in a process that has not imported jax; gives the folder that programs would go to."""
    monkeypatch.setattr(compiling, "sys", types.SimpleNamespace(modules={}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in compiling._SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cvvae_jax" / "compiled"


def test_programs_go_to_a_folder_of_the_kind_of_cpu(fresh, monkeypatch):
    folders = []
    for kind in ("avx2", "avx512"):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setattr(compiling.platform, "processor", lambda kind=kind: kind)
        compiling.keep_compiled_programs()
        folders.append(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
        assert folders[-1].is_dir() and folders[-1].parent == fresh
    assert folders[0] != folders[1]
    assert float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) < 1


@pytest.mark.parametrize("chosen", ["/elsewhere", ""])
def test_the_users_folder_is_respected_and_none_as_well(fresh, monkeypatch, chosen):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    compiling.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == chosen and not fresh.exists()
    assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ


def test_a_folder_that_jax_has_is_respected(monkeypatch):
    """So these tests never see the user's programs."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    before = jax.config.jax_compilation_cache_dir
    compiling.keep_compiled_programs()
    assert before is not None and jax.config.jax_compilation_cache_dir == before


def test_a_home_that_cant_be_written_is_said_and_no_failure(fresh, monkeypatch, caplog):
    (fresh.parent).write_text("a file where a folder should be")
    monkeypatch.setattr(compiling._log, "handlers", [caplog.handler])
    monkeypatch.setattr(compiling._log, "propagate", False)
    with caplog.at_level("INFO", "cvvae_jax.compiling"):
        compiling.keep_compiled_programs()
    assert "Compiled programs are not kept" in caplog.text and "JAX_COMPILATION" not in caplog.text
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """A clock that stands still, and an empty folder of seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    now = types.SimpleNamespace(time=100.0, monotonic=lambda: now.time)
    monkeypatch.setattr(compiling, "time", now)
    monkeypatch.setattr(compiling, "_waits", compiling._Waits())
    return now


def compiled(clock, seconds, *depends_on, what="the step", kept=None, **options):
    """What was said before a program was compiled for so many seconds, of which jax says that it
    kept the last `kept`."""
    said = []
    with announced(what, *depends_on, say=said.append, **options):
        clock.time += seconds
        if kept is not None:
            jax.monitoring.record_event("/jax/compilation_cache/cache_misses")
        jax.monitoring.record_event_duration_secs(
            "/jax/core/compile/backend_compile_duration", kept or 0.5
        )
    return said


def test_the_time_of_the_last_start_is_said_before(clock):
    assert compiled(clock, 62) == ["compiling the step"]
    assert compiled(clock, 70) == ["compiling the step, about 62 s"]
    assert compiled(clock, 1) == ["compiling the step, about 70 s"]


def test_what_is_kept_is_not_waited_for_again(clock):
    """Of 62 seconds, 53 were the compiler's, whose result is read the next time."""
    assert compiled(clock, 62, kept=53.0) == ["compiling the step"]
    assert compiled(clock, 10) == ["compiling the step, about 9 s"]


def test_short_waits_are_not_announced(clock):
    assert compiled(clock, 0.2) == ["compiling the step"]
    assert compiled(clock, 0.2) == []


def test_programs_are_told_apart(clock):
    assert compiled(clock, 62, "8 x 8") == ["compiling the step"]
    assert compiled(clock, 62, "16 x 16") == ["compiling the step"]


def test_what_jit_keeps_is_announced_once(clock):
    assert compiled(clock, 62, once=True) == ["compiling the step"]
    assert compiled(clock, 0, once=True) == []
    assert Stopwatch().compiling() == 0


def test_an_error_is_not_taken_for_a_time(clock):
    with pytest.raises(RuntimeError), announced("the step", say=[].append):
        clock.time += 5
        raise RuntimeError
    assert compiled(clock, 62) == ["compiling the step"]


def test_damaged_times_and_unwritable_folders_are_no_failure(clock, tmp_path):
    compiled(clock, 62)
    [path] = (tmp_path / "cvvae_jax" / "seconds").iterdir()
    path.write_bytes(b"\xff soon")
    assert compiled(clock, 62) == ["compiling the step"]
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file")
    assert compiled(clock, 62) == ["compiling the step"]


def test_rates_leave_out_waits_also_of_two_threads_at_once(clock):
    watch = Stopwatch()
    clock.time += 3
    with announced("one", say=[].append), announced("two", say=[].append):
        clock.time += 60
        assert watch.compiling() == 60
    assert (watch.seconds(), watch.working(), watch.compiling()) == (63, 3, 60)


def test_progress_of_commands_leaves_out_compiling(clock, capsys, monkeypatch):
    monkeypatch.setattr(program, "_SECONDS_BETWEEN_LINES", 0.0)

    def clips():
        with announced("the program", say=[].append):
            clock.time += 100
        for number in range(4):
            clock.time += 2
            yield number

    list(program.track(clips(), total=4, unit="clips"))
    assert capsys.readouterr().err.splitlines()[-1] == "4 of 4 clips, 0.50/s"


def test_speeds_of_commands_leave_out_compiling(clock):
    watch = Stopwatch()
    with announced("the program", say=[].append):
        clock.time += 90
    clock.time += 10
    assert speed(40, watch).startswith("100.0 s, 90.0 s of them compiling, 4.00 frames/s; peak")


def test_an_evaluation_says_at_once_what_it_does(capsys):
    assert main(["evaluate", "nothing", "--data", "clips", "--protocol", "wfvae"]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "Measuring nothing on clips by the protocol wfvae: reading the models"


SCRIPT = """
from cvvae_jax.compiling import announced, keep_compiled_programs
keep_compiled_programs()
import jax, jax.monitoring
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
def program(x):
    for _ in range(100):  # takes longer to compile than what is not kept
        x = jax.numpy.tanh(x @ x).T + x
    return x
with announced("the program", say=print):
    jax.jit(jax.grad(lambda x: program(x).sum())).lower(jax.numpy.ones((40, 40))).compile()
print("hits", hits.count("/jax/compilation_cache/cache_hits"))
"""


def test_a_second_start_is_free_of_compiling(tmp_path):
    given = {n: v for n, v in os.environ.items() if not n.startswith(("JAX_COMP", "JAX_PERS"))}
    environment = given | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    outputs = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[0].startswith("compiling the program\n") and outputs[0].endswith("hits 0\n")
    assert int(outputs[1].split()[-1]) >= 1


@pytest.mark.parametrize("size", [8, 64])
def test_convolutions_are_not_given_to_the_slower_library(size):
    """Without padding, jaxlib 0.10's YNNPACK takes several times as long as Eigen; sums stay there.
    The result is the same up to float32's rounding of 288 products."""

    def run(video, kernel):
        out = jax.lax.conv_general_dilated(
            video, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out, out.sum((0, 1, 2))

    video = jax.random.normal(jax.random.key(0), (2, size, size, 32))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32))
    lowered = jax.jit(run).lower(video, kernel)
    program, default = compile_program(lowered), lowered.compile()
    by_library = [body for body in fusions(program.as_text()) if "convolution(" in body]
    assert not by_library or not jaxlib.__version__.startswith("0.10.")
    for ours, theirs in zip(program(video, kernel), default(video, kernel), strict=True):
        tolerance = 288 * 2**-24 * float(abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def fusions(text):
    """The computations that a compiled program gives to YNNPACK."""
    names = re.findall(r"ynn_fusion[\w.]* = .*calls=%?([\w.]+)", text)
    return [text.split(f"%{name} (")[1].split("\n}")[0] for name in names]
