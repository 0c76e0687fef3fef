"""The table, a line at a time."""

from benchmarks.train_step.workers import Result

LEGEND = """\
step: a step's seconds, the median; of steps in turn the mean of both, which follow it (generator,
discriminator). cpu: seconds of the host's processors for a step, which other jobs on the machine
change less than its time. GB: the most that the device ever gave, while compiling too (peak), and
what the compiler planned for the larger program (planned). executed: TFLOP a step of convolution
and matrix products in the traced program, all networks and all that is computed again; official: of
the video VAE alone, a forward pass for a step of the discriminator and three, two of them for the
backward pass, for all others (the encoder's forward pass is 5.7 and the decoder's 17.1 TFLOP for 17
x 256 x 256). %: of the devices' dense bfloat16 peak, whatever the precision. highest: exact float32
products; default: float32 with TF32 (GPUs) or bfloat16 (TPUs) products; bfloat16: with float32
parameters, in PyTorch under autocast. compile: seconds. Ours also averages parameters (EMA) and
skips steps that are not finite; PyTorch's doesn't."""
HEADER = (
    f"{'side':<6}{'batch':<7}{'updates':<10}{'precision':<10}{'remat':<7}"
    f"{'step':>8}{'gen.':>8}{'disc.':>8}{'cpu':>8}{'frames/s':>10}{'peak':>8}{'planned':>8}"
    f"{'executed':>10}{'%':>6}{'official':>10}{'%':>6}{'compile':>9}"
)


def line(result: Result) -> str:
    """A row."""
    row = result.row
    name = f"{row.side:<6}{row.kind:<7}{row.updates:<10}{row.precision:<10}{row.remat:<7}"
    if result.failure is not None:
        return name + "  " + result.failure
    seconds = result.seconds()
    step = sum(seconds.values()) / len(seconds)
    parts = [seconds.get(program) for program in ("generator", "discriminator")]
    frames = row.bucket.batch * row.bucket.frames / step
    facts, count = result.facts, len(seconds)
    executed, official = (_divided(facts.get(key), count) for key in ("executed", "official"))
    peak = facts["peak_flops"] and facts["peak_flops"] * row.devices
    return name + "".join(
        (
            _number(step, 8, 4),
            *(_number(part, 8, 4) for part in parts),
            _number(_divided(result.cpu_seconds(), count), 8, 3),
            _number(frames, 10, 2),
            _number(_divided(result.peak_bytes, 1e9), 8, 2),
            _number(_divided(facts.get("planned_bytes"), 1e9), 8, 2),
            _number(_divided(executed, 1e12), 10, 4),
            _number(_percent(executed, step, peak), 6, 1),
            _number(_divided(official, 1e12), 10, 4),
            _number(_percent(official, step, peak), 6, 1),
            _number(facts.get("compile_seconds"), 9, 1),
        )
    )


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _percent(flops: float | None, seconds: float, peak: float | None) -> float | None:
    return None if flops is None or peak is None else 100 * flops / seconds / peak


def _number(value: float | None, width: int, digits: int) -> str:
    """Aligned; a dash for what isn't known."""
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
