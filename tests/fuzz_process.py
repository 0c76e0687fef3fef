"""Reads seeded mutations of a good file, one after the other: `fuzz_process.py KIND COUNT FOLDER`.

A process of its own, so that a reader that hangs, dies or fills the memory is seen, too. What it
prints last says which mutation it was at; a kill by SIGPROF means more than 5 seconds.
"""

import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz_kinds import KINDS

from cvvae_jax.errors import UserError

_SECONDS = 5.0  # of computing: the machine may be busy otherwise
_MEGABYTES = 1024


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes, each of a kind that damaged and hostile files have."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(content) + 1))
        some = int(rng.integers(1, 9))
        match int(rng.integers(7)):
            case 0:  # a flipped bit
                content[at : at + 1] = bytes(
                    c ^ 1 << int(rng.integers(8)) for c in content[at:][:1]
                )
            case 1:
                content[at : at + some] = rng.bytes(min(some, len(content) - at))
            case 2:  # an insertion
                content[at:at] = rng.bytes(some)
            case 3:  # a removal
                del content[at : at + some]
            case 4:  # the end is missing
                del content[at:]
            case 5:  # what may be a length or a count becomes large
                large = (2 ** int(rng.integers(7, 64)) - int(rng.integers(2))).to_bytes(8, "little")
                content[at : at + some] = large[::-1][-some:] if rng.integers(2) else large[:some]
            case 6:  # a piece comes twice
                begin = int(rng.integers(len(content) + 1))
                content[at:at] = content[begin : begin + 64 * some]
    return bytes(content)


def limit() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    most = used + _MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def fuzz(path: Path, read: Callable[[Path], object], *, exact: bool, name: str, count: int) -> int:
    """How many mutations were refused."""
    good, refused = path.read_bytes(), 0
    right = read(path)
    limit()
    for number in range(count):
        print(f"{name} {number}", flush=True)
        path.write_bytes(mutated(good, np.random.default_rng([number, len(name)])))
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        try:
            found = read(path)
        except UserError:
            refused += 1
        else:
            if exact:
                np.testing.assert_equal(found, right)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return refused


def main(name: str, count: str, folder: str) -> None:
    make, read, exact = KINDS[name]
    try:
        refused = fuzz(make(Path(folder)), read, exact=exact, name=name, count=int(count))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    assert refused, "no mutation was refused"


if __name__ == "__main__":
    main(*sys.argv[1:])
