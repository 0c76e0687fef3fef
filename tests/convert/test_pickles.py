"""PyTorch's pickles: what is read, what is refused, and that nothing in them runs."""

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from cvvae_jax.convert.files import TensorInfo, open_weights, pickles, source
from cvvae_jax.errors import UserError

ZIP, OLD = True, False
NOT_IN_OLD = ("uint64", "uint32", "uint16")  # torch saves them, but cannot load them again


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def save(torch, path: Path, state, zipped: bool = ZIP) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def refused(path: Path, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        list((found := open_weights(path)).read(found.tensors))
    message = str(error.value)
    assert path.name in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("zipped", [ZIP, OLD])
def test_every_type_is_read_as_it_is(tmp_path, torch, zipped):
    values = torch.arange(6).reshape(2, 3)
    names = [name for name in pickles._DTYPES if zipped or name not in NOT_IN_OLD]
    plain = {name: values.to(getattr(torch, name)) for name in names}
    state = plain | {"bfloat16": values.to(torch.bfloat16)}
    if zipped:  # torch saves these in old files, but cannot load them again
        state |= {
            name: values.to(getattr(torch, name)) for name in ("float8_e4m3fn", "float8_e5m2")
        }
    state["parameter"] = torch.nn.Parameter(torch.tensor(3.0))
    state["transposed"] = plain["float32"].T
    state["alias"] = plain["float32"]
    state["row"] = plain["float32"][1]
    state["bfloat16_column"] = state["bfloat16"][:, 1]
    state["none"] = torch.zeros(0, 3)
    found = open_weights(save(torch, tmp_path / "x.ckpt", OrderedDict(state), zipped))
    read = dict(found.read(found.tensors))
    assert read.keys() == state.keys() and found.metadata == {}
    for name, tensor in state.items():
        assert found.tensors[name] == TensorInfo(tuple(tensor.shape), read[name].dtype)
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(read[name].astype("f8"), tensor.detach().double().numpy())
    read["float32"][:] = 7  # no array is a view of another one
    assert read["alias"][0, 0] == 0 and read["row"][0] == 3


def test_large_files_are_mapped_anew_on_the_way(tmp_path, torch, monkeypatch):
    """What has been read would stay in memory as long as its mapping."""
    monkeypatch.setattr(pickles, "_REMAP_BYTES", 100)
    loads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: loads.append(kw) or load(*args, **kw))
    state = {f"{i:02d}": torch.full((10,), i) for i in range(10)}
    found = open_weights(save(torch, tmp_path / "x.ckpt", state))
    read = dict(found.read(found.tensors))
    assert [array[9] for _, array in sorted(read.items())] == list(range(10))
    assert len(loads) == 6 and all(kw["mmap"] and kw["weights_only"] for kw in loads)


def test_weights_are_found_in_training_states(tmp_path, torch):
    w = {"w": torch.ones(2)}
    counters = {"epoch": 3, "lr": 0.1, "name": "a", "none": None, "step": torch.tensor(5)}
    optimizer = {"optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{}]}}
    for state in (
        w | {"epoch": 3, "none": None} | optimizer,
        {"state_dict": w, "ema": w} | counters | optimizer,
        {"model": w} | counters,
        {"module": w} | counters | optimizer,
        {"state_dict": w | {"epoch": 3, "shape": torch.Size([2])}, "rng": torch.ones(3)},
        {"checkpoint": {"state_dict": w, "ema": w, "epoch": 3}},
        {"state_dict": {"model": w, "epoch": 3}} | optimizer,
        {"states": {"model": w | {7: torch.ones(2)}, "epoch": 3}, "rng": [1, 2]},
    ):
        found = open_weights(save(torch, tmp_path / "x.ckpt", state))
        assert list(found.tensors) == ["w"]
        ((name, array),) = found.read(["w"])
        assert name == "w" and array.tolist() == [1, 1]


def test_each_of_several_sets_has_its_key_before_its_names(tmp_path, torch):
    w = {"w": torch.ones(2)}
    for state, names in (
        ({"model": w, "ema": w, "epoch": 3}, ["ema.w", "model.w"]),
        ({"model": w, "w": torch.ones(2)}, ["model.w", "w"]),
        ({"a": {"model": w, "ema": {"state_dict": w}}}, ["w"]),
        ({"a": {"b": {"model": w, "ema": w}}, "c": {}}, ["ema.w", "model.w"]),
    ):
        found = open_weights(save(torch, tmp_path / "x.ckpt", state))
        assert sorted(found.tensors) == names
        assert sorted(name for name, _ in found.read(names)) == names


def test_strange_tensors_that_are_not_wanted_stop_nothing(tmp_path, torch):
    state = {
        "w": torch.ones(2),
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "nowhere": torch.ones(2, device="meta"),
        "scale": torch.ones(2).to(torch.float8_e8m0fnu),
        "view": torch.ones(1).expand(10**12),
    }
    found = open_weights(save(torch, tmp_path / "x.pt", state))
    assert next(iter(found.read(["w"])))[1].tolist() == [1, 1]
    for name in state.keys() - {"w"}:
        with pytest.raises(UserError, match=rf"x\.pt holds {name} as "):
            list(found.read([name]))


def test_unclear_states_are_refused(tmp_path, torch):
    path = tmp_path / "x.ckpt"
    for state, says in (
        ({"epoch": 3, "state_dict": {}}, "no dict of tensors; it has epoch, state_dict"),
        ({}, "no dict of tensors; it has nothing at all"),
        ({0: torch.ones(2)}, "names a tensor 0"),
        ([torch.ones(2)], "holds list, not a dict"),
        (torch.ones(2), "holds Tensor, not a dict"),
        (None, "holds NoneType, not a dict"),
    ):
        refused(save(torch, path, state), says)


@pytest.mark.parametrize(("count", "end"), [(0, "nothing at all"), (10, "x9"), (11, "x9, ...")])
def test_ten_entries_of_a_state_are_listed(count, end):
    listed = pickles._listed({f"x{number}": number for number in range(count)})
    assert listed.endswith(end) and listed.count("x") == min(count, 10)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [ZIP, OLD])
def test_strange_tensors_are_refused_by_name(tmp_path, torch, zipped):
    for tensor, says in (
        (torch.eye(2).to_sparse(), "w as torch.sparse_coo"),
        (torch.eye(2).to_sparse_csr(), "w as torch.sparse_csr"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "w as .*qint8"),
        (torch.ones(2, dtype=torch.complex64), "w as torch.complex64"),
        (torch.ones(2).to(torch.float8_e8m0fnu), "w as torch.float8_e8m0fnu|sound file.*storage"),
        (torch.ones(2, device="meta"), "w as .*on meta"),
        (torch.ones(1).expand(10**12), "w as a view .*larger than the file"),
    ):
        refused(save(torch, tmp_path / "x.pt", {"w": tensor}, zipped), says)


def test_subclasses_of_tensors_are_refused_by_name(tmp_path, torch, monkeypatch):
    """Torch loads those that the program around us has declared safe."""
    odd = type("Odd", (torch.Tensor,), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], "Odd", odd, raising=False)
    path = save(torch, tmp_path / "x.pt", {"w": torch.ones(2).as_subclass(odd)})
    with torch.serialization.safe_globals([odd]):
        refused(path, "w as a Odd")


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path, torch, form):
    path, marker = tmp_path / "x.ckpt", tmp_path / "marker"
    state = {"w": torch.ones(2), "x": Payload(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    else:
        save(torch, path, state, form == "zip")
    refused(path, r"holds code or Python objects \(\w+\.system\) and was not loaded")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload is a real one


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_other_programs_are_refused(tmp_path, torch, protocol):
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps({"w": [1.0]}, protocol=protocol))
    refused(path, r"no sound file of PyTorch weights and was not loaded \(torch: \w.*\)")
    path.write_bytes(pickle.dumps({"w": np.ones(2)}, protocol=protocol))
    refused(path, "no sound file of PyTorch weights|Python objects .*numpy")


@pytest.mark.parametrize("zipped", [ZIP, OLD])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.999])
def test_truncated_files_are_refused(tmp_path, torch, zipped, keep):
    path = save(torch, tmp_path / "x.ckpt", {"w": torch.ones(1000), "v": torch.ones(9)}, zipped)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refused(path, "damaged or cut short|no sound file of PyTorch weights")


def rezip(source: Path, target: Path, method: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
        for name, content in more.items():
            new.writestr(f"x/{name}", content)
    return target


def test_archives_that_unpack_to_more_than_they_are_do_not_reach_torch(
    tmp_path, torch, monkeypatch
):
    good = save(torch, tmp_path / "x.ckpt", {"w": torch.zeros(1000)})
    noise = save(torch, tmp_path / "noise.ckpt", {"w": torch.rand(1000)})  # no smaller when packed
    monkeypatch.setattr(torch, "load", None)
    for path in (good, noise):
        refused(rezip(path, tmp_path / "y.ckpt", zipfile.ZIP_DEFLATED), "compressed or oversized")
    # The directory at the end says that the tensor is larger than the file.
    data = good.read_bytes().replace((4000).to_bytes(4, "little"), (10**9).to_bytes(4, "little"))
    good.write_bytes(data)
    refused(good, "compressed or oversized|damaged")


def test_entries_that_overlap_do_not_reach_torch(tmp_path, torch, monkeypatch):
    path = save(torch, tmp_path / "x.ckpt", {"w": torch.zeros(9000)})
    monkeypatch.setattr(torch, "load", None)
    infolist = zipfile.ZipFile.infolist
    monkeypatch.setattr(
        zipfile.ZipFile, "infolist", lambda self: 2 * infolist(self)[1:] + infolist(self)[:1]
    )
    refused(path, "compressed or oversized")


def test_other_archives_are_refused(tmp_path, torch):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.safetensors", b"1")
    refused(path, "not PyTorch's")
    good = save(torch, tmp_path / "x.pt", {"w": torch.ones(2)})
    refused(rezip(good, path, **{"constants.pkl": b""}), "is a TorchScript program")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02")
    refused(path, "no sound file")


def test_old_files_that_lie_about_sizes_are_refused(tmp_path, torch):
    path = save(torch, tmp_path / "x.pt", {"w": torch.zeros(1000)}, OLD)
    good = path.read_bytes()
    size = b"M\xe8\x03"  # 1000, first of the storage and then of the tensor
    assert good.count(size) == 2
    for count in (1, 2):
        path.write_bytes(good.replace(size, b"J\xff\xff\xff\x3f", count))
        refused(path, "no sound file|larger than the file")
    path.write_bytes(
        good[: good.rindex(size)] + b"J\xff\xff\xff\x3f" + good[good.rindex(size) + 3 :]
    )
    refused(path, "no sound file|larger than the file")


@pytest.mark.parametrize("zipped", [ZIP, OLD])
def test_files_that_change_between_opening_and_reading_are_refused(tmp_path, torch, zipped):
    path = save(torch, tmp_path / "x.pt", {"w": torch.ones(2)}, zipped)
    found = open_weights(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"x\.pt changed"):
        list(found.read("w"))
    path.unlink()
    with pytest.raises(UserError, match=r"x\.pt cannot be read"):
        list(found.read("w"))


def test_without_torch_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps({"w": 1}))
    refused(path, "takes PyTorch: run `pip install torch`, or name a .safetensors file")


def test_versions_of_torch_that_can_be_exploited_are_refused(tmp_path, torch, monkeypatch):
    path = save(torch, tmp_path / "x.ckpt", {"w": torch.ones(2)})
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    refused(path, r"PyTorch 2\.9\.1\+cpu cannot read .* safely: run `pip install 'torch>=2\.10'`")


def test_a_pickle_named_safetensors_is_refused(tmp_path, torch):
    """Torch would go by the name."""
    path = save(torch, tmp_path / "x.pt", {"w": torch.ones(2)}).rename(tmp_path / "x.safetensors")
    refused(path, "is a PyTorch pickle, not safetensors: rename it to x.pt")


def test_shards_may_be_pickles(tmp_path, torch):
    for name in "ab":
        save(torch, tmp_path / f"{name}.bin", {name: torch.ones(2)})
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "a.bin", "b": "b.bin"}}')
    assert [name for name, _ in open_weights(index).read("ab")] == ["a", "b"]


@pytest.mark.parametrize("zipped", [ZIP, OLD])
def test_more_tensors_than_are_read_are_refused(tmp_path, torch, monkeypatch, zipped):
    monkeypatch.setattr(source, "_MOST_TENSORS", 3)
    state = {f"encoder.{i}": torch.zeros(1) for i in range(4)}
    refused(save(torch, tmp_path / "x.ckpt", state, zipped), "holds 4 tensors")
