"""Files of latents that are longer than what is read at once."""

import numpy as np
import pytest

from cvvae_jax.latents.file import (
    SUFFIXES,
    LatentsMetadata,
    LatentsWriter,
    load_latents,
    open_latents,
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("frames", "parts"), [(64, [64]), (65, [64, 1]), (130, [64, 64, 2])])
def test_parts_are_the_whole_file_in_order(tmp_path, suffix, frames, parts):
    values = np.arange(frames * 2 * 3 * 4, dtype=np.float32).reshape(frames, 2, 3, 4)
    path = tmp_path / f"z{suffix}"
    with LatentsWriter(path) as writer:
        for part in (values[:50], values[50:]):
            writer.write(part)
        writer.finish(LatentsMetadata(frames=1 + 4 * (frames - 1), height=16, width=24))
    found = list(open_latents(path).parts())
    assert [len(part) for part in found] == parts
    np.testing.assert_array_equal(np.concatenate(found), values)
    np.testing.assert_array_equal(load_latents(path).values[0], values)
