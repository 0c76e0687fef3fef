"""What the tests of the examples share."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads would wait for each other longer than such small networks compute."""
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_weights():
    """Networks have the same random weights, whichever tests run before."""
    pytest.importorskip("torch").manual_seed(0)
