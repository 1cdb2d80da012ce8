"""Files of real `torch.save`, converted without torch: equal bits, whatever the strides, and nothing else is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tools.tiny_checkpoint import make_checkpoint
from typer.testing import CliRunner

from conclave.errors import InvalidInput
from conclave_cli.main import app
from conclave_weights.convert import values
from conclave_weights.convert.conversion import ConversionPlan, convert
from conclave_weights.convert.plan import plan_conversion
from conclave_weights.convert.torch_files import find_tensors
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.verify.adapter import check_adapter
from conclave_weights.verify.digest import digest_of, hash_files
from conclave_weights.verify.soundness import check_weights

Tensors = Mapping[str, torch.Tensor]
SHARD_BYTES = 200_000


def model(root: Path, tensors: object, name: str = "pytorch_model.bin") -> Path:
    """A directory with one pickled file."""
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text('{"architectures": ["MyModel"]}')
    torch.save(tensors, root / name)
    return root


def tensors_of(root: Path) -> dict[str, torch.Tensor]:
    """As the safetensors library reads them for torch."""
    return {name: tensor for shard in root.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], list[int]]:
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor.dtype, tuple(tensor.shape), plain.reshape(-1).view(torch.uint8).tolist() if plain.numel() else []


def assert_same(seen: Tensors, wanted: Tensors) -> None:
    assert seen.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert bits(seen[name]) == bits(tensor), name


GRID = torch.arange(6 * 10, dtype=torch.float32).reshape(6, 10)
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.complex64,
)  # fmt: skip
LAYOUTS: Mapping[str, torch.Tensor] = {
    "as it is": GRID,
    "a scalar": torch.tensor(7.5),
    "nothing": torch.zeros(0, 3),
    "nothing of something": GRID[:0],
    "transposed": GRID.t(),
    "some rows": GRID[2:4],
    "some columns": GRID[:, 3:7],
    "one column": GRID[:, 4],
    "every other": GRID[::2, ::3],
    "one row for all": GRID[:1].expand(4, 10),
    "one number for all": torch.tensor(3.0).expand(3, 2),
    "permuted": torch.arange(120, dtype=torch.int16).reshape(2, 3, 4, 5).permute(2, 0, 3, 1),
    "a size of one with a stride of its own": torch.arange(9).as_strided((1, 4), (17, 2)),
    "a parameter": torch.nn.Parameter(GRID.clone()),
    "channels last": torch.arange(96).reshape(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("band_bytes", [values.BAND_BYTES, 64, 1])
def test_every_type_and_layout_keeps_its_bits(band_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "BAND_BYTES", band_bytes)
    numbers = torch.randint(0, 2, (3, 5, 2), generator=torch.Generator().manual_seed(0)).float() * 1.5
    tensors = dict(LAYOUTS) | {str(dtype): numbers.to(dtype) for dtype in DTYPES}
    tensors |= {f"{dtype} transposed": numbers.to(dtype).transpose(0, 2) for dtype in DTYPES}
    source = model(tmp_path / "source", tensors)
    outcome = convert(plan_conversion(source, tmp_path / "target"))
    assert_same(tensors_of(tmp_path / "target"), tensors)
    assert outcome.size_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@given(data=st.data())
def test_every_view_keeps_its_bits(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    view = torch.arange(1000, dtype=torch.int32)[: torch.Size(shape).numel()].reshape(shape)
    view = view.permute(data.draw(st.permutations(range(len(shape)))))
    for axis in range(view.ndim):
        first = data.draw(st.integers(0, view.shape[axis]))
        view = view.narrow(axis, first, view.shape[axis] - first)
        view = view[(slice(None),) * axis + (slice(None, None, data.draw(st.integers(1, 3))),)]
    root = tmp_path_factory.mktemp("view")
    source = model(root / "source", {"view": view, "again": view})
    before, values.BAND_BYTES = values.BAND_BYTES, data.draw(st.sampled_from([4, 16, 100, 2**20]))
    try:
        convert(plan_conversion(source, root / "target"))
    finally:
        values.BAND_BYTES = before
    assert_same(tensors_of(root / "target"), {"view": view, "again": view})
    shutil.rmtree(root)


def test_shared_storages_become_tensors_of_their_own(tmp_path: Path) -> None:
    linear = torch.nn.Linear(8, 8)
    tensors = OrderedDict(linear.state_dict())
    tensors["lm_head.weight"] = tensors["weight"]
    tensors["half"] = tensors["weight"][4:]
    tensors["turned"] = tensors["weight"].t()
    source = model(tmp_path / "source", tensors)
    convert(plan_conversion(source, tmp_path / "target"))
    assert_same(tensors_of(tmp_path / "target"), tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_of_modules_is_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "model.pt", pickle_protocol=protocol)
    assert find_tensors(tmp_path / "model.pt").keys() == module.state_dict().keys()


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mixtral as PyTorch saved it in two files with an index, and what a directory on the hub has beside."""
    root = make_checkpoint("mixtral", tmp_path_factory.mktemp("mixtral"))
    tensors = load_file(root / "model.safetensors")
    names = list(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, root / file)
        weight_map |= dict.fromkeys(part, file)
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (root / "model.safetensors").rename(root.parent / "expected.safetensors")
    for name in ("LICENSE", "modeling.py", "training_args.bin", "chat_template.jinja"):
        (root / name).write_text(name)
    return root


def test_a_sharded_checkpoint_becomes_a_sound_directory(mixtral: Path, tmp_path: Path) -> None:
    plan = plan_conversion(mixtral, tmp_path / "target", shard_bytes=SHARD_BYTES)
    outcome = convert(plan)
    assert_same(tensors_of(tmp_path / "target"), load_file(mixtral.parent / "expected.safetensors"))
    inspection = inspect_weights(tmp_path / "target")
    assert (inspection.problems, inspection.notes, inspection.shards) == ([], [], outcome.shards)
    check_weights(tmp_path / "target")
    others = {path.name for path in (tmp_path / "target").iterdir() if path.suffix != ".safetensors"}
    assert others == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("model.safetensors.index.json", "LICENSE", "chat_template.jinja"),
    }
    assert (tmp_path / "target" / "config.json").read_bytes() == (mixtral / "config.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_adapter_becomes_an_adapter(tmp_path: Path) -> None:
    source = tmp_path / "adapter"
    source.mkdir()
    (source / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{stem}.lora_A.weight": torch.rand(8, 32), f"{stem}.lora_B.weight": torch.rand(16, 8)}
    torch.save(tensors, source / "adapter_model.bin")
    with pytest.raises(
        WeightsUnfit, match=f"adapter_model.bin is a pickle.*: conclave weights convert {source} TARGET"
    ):
        check_adapter("mine", source, 8)
    convert(plan_conversion(source, tmp_path / "target"))
    assert check_adapter("mine", tmp_path / "target", 8).keys() == tensors.keys()
    assert {path.name for path in (tmp_path / "target").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert_same(tensors_of(tmp_path / "target"), tensors)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def test_the_command_converts_what_the_refusal_says(mixtral: Path, tmp_path: Path) -> None:
    refused = run("digest", mixtral)
    assert f"conclave weights convert {mixtral} TARGET" in str(refused.exception)
    assert f"conclave weights convert {mixtral} TARGET" in run("inspect", mixtral).stdout
    told = run("convert", mixtral, tmp_path / "target")
    assert (told.exit_code, told.stdout.startswith(f"{tmp_path / 'target'}: 1 files, ")) == (0, True)
    assert run("inspect", tmp_path / "target").exit_code == 0


def test_a_type_for_what_keeps_its_types_is_refused(mixtral: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--dtype float32: for Grok-1 only"):
        plan_conversion(mixtral, tmp_path / "target", dtype="float32")


# Interruptions

CHILD = """
import json, os, signal, sys
from pathlib import Path
from conclave_weights.convert.conversion import convert
from conclave_weights.convert.plan import plan_conversion
source, target, shard_bytes, kill_after = json.loads(sys.argv[1])
done = 0
def on_progress(count):
    global done
    done += count
    if done > kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
convert(plan_conversion(Path(source), Path(target), shard_bytes=shard_bytes), on_progress)
"""


@pytest.mark.parametrize("kill_after", [0, 500_000, 900_000])
def test_a_killed_conversion_leaves_no_target_and_goes_on(mixtral: Path, tmp_path: Path, kill_after: int) -> None:
    target = tmp_path / "target"
    arguments = json.dumps([str(mixtral), str(target), SHARD_BYTES, kill_after])
    assert subprocess.run([sys.executable, "-c", CHILD, arguments], check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    kept = convert(plan_conversion(mixtral, target, shard_bytes=SHARD_BYTES)).kept_shards
    assert (kept > 0) == (kill_after > 0)
    convert(plan_conversion(mixtral, tmp_path / "at-once", shard_bytes=SHARD_BYTES))
    assert digest_of(hash_files(target)) == digest_of(hash_files(tmp_path / "at-once"))


def test_a_changed_source_does_not_go_on(tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(4)})
    (tmp_path / "target.partial").mkdir()
    old = plan_conversion(source, tmp_path / "target")
    (tmp_path / "target.partial" / ".conversion.jsonl").write_text(json.dumps({"conversion": old.identity()}) + "\n")
    model(source, {"a": torch.ones(4)})
    os.utime(source / "pytorch_model.bin", (1, 1))
    with pytest.raises(InvalidInput, match="an interrupted conversion of other files"):
        convert(plan_conversion(source, tmp_path / "target"))


MEMORY_CHILD = """
import resource, sys
from pathlib import Path
from conclave_weights.convert import values
from conclave_weights.convert.conversion import convert
from conclave_weights.convert.plan import plan_conversion
values.BAND_BYTES = 2**20
plan = plan_conversion(Path(sys.argv[1]), Path(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(plan)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print("torch" in sys.modules)
"""


def test_memory_holds_a_band_and_no_tensor_and_no_torch(tmp_path: Path) -> None:
    large = torch.zeros(2**26, dtype=torch.uint8)
    source = model(tmp_path / "source", {"a": large, "b": large[1:]})
    command = [sys.executable, "-c", MEMORY_CHILD, str(source), str(tmp_path / "target")]
    grown_kib, has_torch = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(grown_kib) * 1024 < large.nbytes / 4
    assert has_torch == "False"


# Links, and directories of others


def test_a_link_out_of_the_source_is_not_copied(tmp_path: Path) -> None:
    """The target may be published: a key of whoever converts would go along."""
    source = model(tmp_path / "source", {"a": torch.zeros(4)})
    (tmp_path / "id_rsa").write_text("secret")
    for target in ("../id_rsa", str(tmp_path / "id_rsa")):
        (source / "tokenizer.json").symlink_to(target)
        with pytest.raises(WeightsUnfit, match=r"tokenizer\.json: is a link to .*id_rsa, outside of .*source"):
            plan_conversion(source, tmp_path / "target")
        (source / "tokenizer.json").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["id_rsa", "source"]


def test_a_file_that_becomes_a_link_after_it_was_planned_is_not_followed(tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(4)})
    (source / "tokenizer.json").write_text("{}")
    plan = plan_conversion(source, tmp_path / "target")
    (tmp_path / "id_rsa").write_text("secret")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(WeightsUnfit, match=r"tokenizer\.json: is a symbolic link"):
        convert(plan)
    assert not (tmp_path / "target").exists()


def test_a_snapshot_of_a_hubs_cache_is_converted(tmp_path: Path) -> None:
    """Its files are links into `blobs`, and a directory of the same name without blobs is none."""
    blobs, snapshot = tmp_path / "models--acme--x" / "blobs", tmp_path / "models--acme--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    model(blobs, {"a": torch.zeros(4)})
    (blobs / "tokenizer.json").write_text("{}")
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    convert(plan_conversion(snapshot, tmp_path / "target"))
    check_weights(tmp_path / "target")
    assert not any(path.is_symlink() for path in (tmp_path / "target").iterdir())
    (tmp_path / "models--acme--x" / "secret").write_text("secret")
    (snapshot / "README.md").symlink_to("../../secret")
    with pytest.raises(WeightsUnfit, match=r"README\.md: is a link to .*secret, outside of"):
        plan_conversion(snapshot, tmp_path / "other")


def test_links_in_the_partial_directory_lead_nothing_elsewhere(tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(4)})
    plan = plan_conversion(source, tmp_path / "target")
    (tmp_path / "mine").write_text("kept")
    partial = tmp_path / "target.partial"
    partial.mkdir()
    (partial / ".conversion.jsonl").write_text(json.dumps({"conversion": plan.identity()}) + "\n")
    for name in ("config.json", "model.safetensors.index.json", plan.shards[0].file):
        (partial / name).symlink_to(tmp_path / "mine")
    convert(plan)
    assert (tmp_path / "mine").read_text() == "kept"
    assert_same(tensors_of(tmp_path / "target"), {"a": torch.zeros(4)})
    assert not any(path.is_symlink() for path in (tmp_path / "target").iterdir())


def lead_to(directory: Path) -> Callable[[Path], object]:
    return lambda partial: partial.symlink_to(directory)


def of_another_user(partial: Path) -> None:
    partial.mkdir()
    os.chown(partial, 12345, 12345)


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to a directory": (lead_to(Path("elsewhere")), "target.partial: is a symbolic link, expected a directory"),
    "a link to nothing": (lead_to(Path("nowhere")), "target.partial: is a symbolic link, expected a directory"),
    "a file": (Path.touch, "target.partial: is no directory, expected a directory"),
    "a directory of another user": (of_another_user, "target.partial: belongs to user 12345, expected a directory"),
}


@pytest.mark.parametrize(("make", "message"), STRANGE.values(), ids=STRANGE)
def test_a_partial_directory_that_is_not_ours_is_refused_with_what_to_do(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    if make is of_another_user and os.geteuid() != 0:
        pytest.skip("only root makes a directory another user's")
    source = model(tmp_path / "source", {"a": torch.zeros(4)})
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / "target.partial")
    with pytest.raises(InvalidInput, match=f"{message} of user .*; remove it, or choose another target"):
        convert(plan_conversion(source, tmp_path / "target"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


# What is no plain state_dict


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.parts


def archived(path: Path, pickle: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> None:
    """A zip file such as torch.save makes, with this data.pkl; storage 0 has 16 bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickle)
        archive.writestr("x/data/0", bytes(16))
        for name, content in entries.items():
            archive.writestr(f"x/{name}", content)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
UNTYPED = STORAGE.replace(b"torch\nFloat", b"torch.storage\nUntyped").replace(b"K\x04", b"K\x10")
NO_HOOKS = b"ccollections\nOrderedDict\n)R"


def tensor(
    view: bytes = b"K\x00K\x04\x85K\x01\x85", storage: bytes = STORAGE, end: bytes = b"", function: bytes = b"v2"
) -> bytes:
    """A pickled mapping of one tensor, written by hand: offset, sizes and strides in `view`."""
    made = b"ctorch._utils\n_rebuild_tensor_" + function + b"\n(" + storage + view + b"\x89" + NO_HOOKS + end + b"tR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + made + b"s."


def test_the_hand_made_tensor_is_one(tmp_path: Path) -> None:
    """Or the table below would refuse it for another reason."""
    archived(tmp_path / "x.bin", tensor())
    assert find_tensors(tmp_path / "x.bin")["a"].shape == (4,)
    with zipfile.ZipFile(tmp_path / "x.bin", "a") as archive:
        archive.writestr("x/version", "3")
    assert torch.load(tmp_path / "x.bin")["a"].tolist() == [0, 0, 0, 0]


def test_numbers_beyond_32_bits_are_read(tmp_path: Path) -> None:
    four, many = b"\x8a\x05\x04\x00\x00\x00\x00", b"\x8a\x05\x05\x00\x00\x80\x00"
    archived(tmp_path / "four.bin", tensor(b"K\x00" + four + b"\x85K\x01\x85"))
    assert find_tensors(tmp_path / "four.bin")["a"].shape == (4,)
    archived(tmp_path / "many.bin", tensor(b"K\x00" + many + b"\x85K\x01\x85"))
    with pytest.raises(WeightsUnfit, match=r"a tensor of shape \[2147483653\] that reaches beyond its storage"):
        find_tensors(tmp_path / "many.bin")


HOSTILE = [
    pytest.param(pickle.dumps(Call(os.system, "touch owned"), 2), "the name 'posix system'", id="os.system"),
    pytest.param(pickle.dumps({"a": Call(os.system, "touch owned")}, 4), "the name 'posix system'", id="in a mapping"),
    pytest.param(pickle.dumps(Call(eval, "open('owned', 'w')"), 2), "the name '__builtin__ eval'", id="eval"),
    pytest.param(pickle.dumps(Call(getattr, str, "format"), 2), "the name '__builtin__ getattr'", id="getattr"),
    pytest.param(b"\x80\x02ctorch\nload\n.", "the name 'torch load'", id="torch.load"),
    pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor\n.", "the name 'torch._utils _reb", id="another tensor"),
    pytest.param(b"\x80\x02ctorch.serialization\nos.system\n.", "the name 'torch.serial", id="a dotted name in torch"),
    pytest.param(b"\x80\x02ctorch", "a name without an end", id="a name cut off"),
    pytest.param(b"\x80\x02c" + b"a" * 10_000 + b"\n", "a name without an end", id="a name without end"),
    pytest.param(b"\x80\x04K\x01K\x02\x93.", "a name that is no text", id="a name that is no text"),
    pytest.param(b"\x80\x02ios\nsystem\n.", "instruction INST", id="os.system in the oldest way"),
    pytest.param(b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction NEWOBJ", id="an object made anew"),
    pytest.param(b"\x80\x02\x82\x01.", "instruction EXT1", id="an extension code"),
    pytest.param(b"\x80\x02P0\n.", "instruction PERSID", id="a persistent id in text"),
    pytest.param(b"\x80\x02]K\x01a.", "instruction EMPTY_LIST", id="a list"),
    pytest.param(b"\x80\x02K\x01Q.", "a reference outside that is no storage", id="a persistent number"),
    pytest.param(tensor(storage=STORAGE.replace(b"storage", b"modules")), "no storage", id="a persistent module"),
    pytest.param(
        tensor(storage=STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009")),
        "no entry 'data/9'",
        id="a storage that is not there",
    ),
    pytest.param(
        tensor(storage=STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../data.pkl")),
        "no entry 'data/../data.pkl'",
        id="a storage elsewhere",
    ),
    pytest.param(
        tensor(storage=STORAGE.replace(b"K\x04", b"K\x05")),
        "16 bytes in data/0, for a storage of 20",
        id="a storage that is longer",
    ),
    pytest.param(
        tensor(storage=STORAGE.replace(b"FloatStorage", b"QInt8Storage")),
        "the name 'torch QInt8Storage'",
        id="quantised numbers",
    ),
    pytest.param(tensor(b"K\x00K\x05\x85K\x01\x85"), "beyond its storage", id="sizes beyond the storage"),
    pytest.param(tensor(b"K\x01K\x04\x85K\x01\x85"), "beyond its storage", id="an offset beyond the storage"),
    pytest.param(tensor(b"K\x00K\x04\x85K\x02\x85"), "beyond its storage", id="strides beyond the storage"),
    pytest.param(tensor(b"J\xff\xff\xff\xffK\x04\x85K\x01\x85"), "no sizes", id="a negative offset"),
    pytest.param(tensor(b"K\x00J\xfc\xff\xff\xff\x85K\x01\x85"), "no sizes", id="a negative size"),
    pytest.param(tensor(b"K\x03K\x02\x85J\xff\xff\xff\xff\x85"), "no sizes", id="a negative stride"),
    pytest.param(tensor(b"\x88K\x04\x85K\x01\x85"), "no sizes", id="an offset that is true"),
    pytest.param(tensor(b"K\x00K\x04\x85)"), "without sizes and strides", id="fewer strides than sizes"),
    pytest.param(tensor(b"K\x00(" + b"K\x01" * 40 + b"t(" + b"K\x01" * 40 + b"t"), "40 dimensions", id="40 dimensions"),
    pytest.param(tensor(end=b"}X\x04\x00\x00\x00conj\x88s"), "in an unknown form", id="a conjugate view"),
    pytest.param(tensor(function=b"v3", end=b"ctorch\nfloat8_e5m2\n"), "in an unknown form", id="two types"),
    pytest.param(
        tensor(storage=UNTYPED, function=b"v3", end=b"K\x01"), "in an unknown form", id="a type that is a number"
    ),
    pytest.param(tensor(storage=b"K\x00"), "in an unknown form", id="a storage that is a number"),
    pytest.param(
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "does not make a tensor", id="a mapping of something"
    ),
    pytest.param(b"\x80\x02ctorch\nFloatStorage\n)R.", "does not make a tensor", id="the storage's class is called"),
    pytest.param(b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.", "state for something", id="a state of its own"),
    pytest.param(b"\x80\x02}K\x01K\x01s.", "items of something that is no mapping", id="a number as a name"),
    pytest.param(pickle.dumps({"a": 1}, 2), "'a', which is no tensor", id="a number in the mapping"),
    pytest.param(pickle.dumps({"state_dict": {}}, 2), "'state_dict', which is no tensor", id="a mapping of mappings"),
    pytest.param(pickle.dumps({}, 2), "no mapping of tensors", id="an empty mapping"),
    pytest.param(b"\x80\x02K\x01.", "no mapping of tensors", id="a number"),
    pytest.param(
        tensor().replace(b"X\x01\x00\x00\x00a", b"X\x0c\x00\x00\x00__metadata__"),
        "'__metadata__', which is no tensor",
        id="the name that safetensors keeps for itself",
    ),
    pytest.param(tensor()[:-1], "truncated", id="a pickle without its end"),
    pytest.param(tensor() + b"cos\nsystem\n.", "12 bytes after its end", id="a second pickle behind the first"),
    pytest.param(b"\x80\x02X\xff\xff\xff\x7fa.", "a text of 2147483647 bytes", id="a claimed text of 2 GiB"),
    pytest.param(b"\x80\x02\x8a\xff" + bytes(255) + b".", "a number of 255 bytes", id="a number of 255 bytes"),
    pytest.param(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".", "no mapping of tensors", id="deep nesting"),
    pytest.param(b"\x80\x01}.", "pickle protocol 1", id="protocol 1"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_a_pickle_that_is_no_state_dict_is_refused_by_name_and_not_run(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archived(tmp_path / "pytorch_model.bin", content)
    (tmp_path / "config.json").write_text('{"architectures": ["MyModel"]}')
    with pytest.raises(WeightsUnfit, match=message):
        plan_conversion(tmp_path, tmp_path / "target")
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_model.bin", "config.json"}


@given(changes=st.lists(st.tuples(st.integers(0, len(tensor()) - 1), st.binary(max_size=2)), min_size=1, max_size=4))
def test_whatever_the_pickle_is_it_is_read_or_refused(
    changes: list[tuple[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("changed") / "x.bin"
    content = tensor()
    for position, written in changes:
        content = content[:position] + written + content[position + 1 :]
    archived(path, content)
    with suppress(WeightsUnfit):
        assert all(view.span * view.item_bytes <= 16 for view in find_tensors(path).values())
    shutil.rmtree(path.parent)


def test_a_hostile_file_of_real_torch_is_refused_and_the_same_file_would_run(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    torch.save({"a": torch.zeros(2), "b": Call(os.mkdir, str(owned))}, tmp_path / "x.bin")
    with pytest.raises(WeightsUnfit, match="the name 'posix mkdir', which is neither imported nor called here"):
        find_tensors(tmp_path / "x.bin")
    assert not owned.exists()
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert owned.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def cut_the_middle(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + content[120:])


def compress(path: Path) -> None:
    archived(path, tensor(), zipfile.ZIP_DEFLATED)


def big_endian(path: Path) -> None:
    archived(path, tensor(), byteorder=b"big")


def legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)


def two_pickles(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", tensor())


def name_twice(path: Path) -> None:
    archived(path, tensor())
    content = path.read_bytes().replace(b"x/data/0", b"x/data/a").replace(b"x/data.pkl", b"x/data.pkl")
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data/0", bytes(16))
    path.write_bytes(path.read_bytes().replace(b"x/data/a", b"x/data/0"))


def no_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        position = -1
        while (position := content.find(signature, position + 1)) >= 0:
            content[position + flags] |= 1
    path.write_bytes(content)


def huge_pickle(path: Path) -> None:
    archived(path, bytes(2**26 + 1))


def header_elsewhere(path: Path) -> None:
    """The directory of the archive says that data/0 begins where nothing does."""
    content = bytearray(path.read_bytes())
    position = content.rindex(b"x/data/0") - 46
    struct.pack_into("<I", content, position + 42, 3)
    path.write_bytes(content)


DAMAGED = [
    pytest.param(cut, "no complete zip file .*: truncated", id="the end cut off"),
    pytest.param(cut_the_middle, "no beginning of data.pkl|no complete zip file", id="a hole in the middle"),
    pytest.param(lambda path: path.write_bytes(b""), "no complete zip file", id="an empty file"),
    pytest.param(lambda path: path.write_bytes(b"<html>" * 99), "no complete zip file", id="a page of a web server"),
    pytest.param(compress, "data.pkl compressed or encrypted", id="compressed"),
    pytest.param(encrypted, "data.pkl compressed or encrypted", id="encrypted"),
    pytest.param(big_endian, "not little-endian", id="big-endian"),
    pytest.param(legacy, "format of PyTorch before 1.6, expected the zip format; .*torch.save", id="before 1.6"),
    pytest.param(two_pickles, "no data.pkl of its own", id="two pickles"),
    pytest.param(no_pickle, "no data.pkl of its own", id="another zip file"),
    pytest.param(name_twice, "two entries with the same name", id="an entry twice"),
    pytest.param(huge_pickle, "data.pkl of 67108865 bytes", id="a pickle of 64 MiB"),
    pytest.param(header_elsewhere, "no beginning of data/0", id="a storage without its header"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_a_damaged_file_is_named(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    archived(path, tensor())
    find_tensors(path)
    change(path)
    with pytest.raises(WeightsUnfit, match=rf"weights file {path}: .*{message}"):
        find_tensors(path)


def flipped(source: Path, content: bytes) -> None:
    path = source / "pytorch_model.bin"
    whole = bytearray(path.read_bytes())
    whole[whole.index(content)] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("view", [slice(None), slice(10, 20), slice(None, None, 2)], ids=["whole", "a part", "strided"])
def test_a_flipped_bit_is_found_and_leaves_no_target(view: slice, tmp_path: Path) -> None:
    numbers = torch.arange(100, 200, dtype=torch.uint8)
    source = model(tmp_path / "source", {"a": numbers[view]})
    flipped(source, bytes(range(150, 160)))
    with pytest.raises(WeightsUnfit, match=r"CRC-32 \w{8} of 100 bytes from byte \d+, expected \w{8}: damaged"):
        convert(plan_conversion(source, tmp_path / "target"))
    assert not (tmp_path / "target").exists()


def test_a_file_without_checksums_is_converted(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        source = model(tmp_path / "source", {"a": GRID})
    finally:
        torch.serialization.set_crc32_options(True)
    convert(plan_conversion(source, tmp_path / "target"))
    assert_same(tensors_of(tmp_path / "target"), {"a": GRID})


def index_says(weight_map: object) -> Callable[[Path], None]:
    content = json.dumps({"weight_map": weight_map})
    return lambda root: (root / "pytorch_model.bin.index.json").write_text(content) and None


def second_copy(root: Path) -> None:
    shutil.copy(root / "pytorch_model.bin", root / "pytorch_model.ema.bin")


NOT_WHOLE = [
    pytest.param(
        index_says({"a": "pytorch_model.bin", "b": "p2.bin"}), "1 of 2 files of .* missing: p2.bin", id="file"
    ),
    pytest.param(index_says({"a": "../other.bin"}), r"1 of 1 files of .* missing: \.\./other.bin", id="elsewhere"),
    pytest.param(
        index_says({"b": "pytorch_model.bin"}), "b is in no file, .* says pytorch_model.bin", id="a tensor of the index"
    ),
    pytest.param(second_copy, "a is in pytorch_model.bin and pytorch_model.ema.bin, expected in one", id="a copy"),
    pytest.param(lambda root: (root / "config.json").unlink(), "no config.json", id="no config"),
    pytest.param(lambda root: (root / "pytorch_model.bin").unlink(), "no pickled weights", id="no weights"),
]


@pytest.mark.parametrize(("change", "message"), NOT_WHOLE)
def test_what_is_not_whole_is_named(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(2)})
    change(source)
    with pytest.raises(WeightsUnfit, match=message):
        plan_conversion(source, tmp_path / "target")


def test_inspect_names_missing_files_of_a_pickled_index_among_the_other_faults(tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(2)})
    index_says({"a": "gone.bin"})(source)
    problems = inspect_weights(source).problems
    assert [
        problem for problem in problems if "1 of 1 files of pytorch_model.bin.index.json are missing: gone" in problem
    ]
    assert [problem for problem in problems if "no tokenizer" in problem]


@pytest.mark.parametrize("name", ["model.pt", "consolidated.00.pth", "model.ckpt"])
def test_other_names_of_files_are_found_and_those_of_training_left_out(name: str, tmp_path: Path) -> None:
    source = model(tmp_path / "source", {"a": torch.zeros(2)}, name)
    for other in ("optimizer.pt", "rng_state_0.pth", "training_args.bin"):
        torch.save(Call(os.getcwd), source / other)
    plan: ConversionPlan = plan_conversion(source, tmp_path / "target")
    assert plan.sources == (source / name,)
