"""What the tests of the examples share."""

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads would wait for each other longer than such small networks compute."""
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
