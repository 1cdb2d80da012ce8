"""Grok-1 as released, converted: equal tensors, whatever interrupts it, and nothing but plain arrays read."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
from tests.unit.weights.grok_release import (
    CONFIG,
    EXPERTS,
    HIDDEN,
    LAYERS,
    VOCAB,
    Floats,
    QuantizedWeight8bit,
    as_float,
    bfloat16_bits,
    pickled,
    write_release,
)

from conclave.errors import EnvironmentUnfit, InvalidInput
from conclave_cli.weights import carry_out
from conclave_weights.convert.arrays import QuantizedArray, StoredArray, find_arrays
from conclave_weights.convert.conversion import ConversionPlan, convert
from conclave_weights.convert.journal import NAME as JOURNAL_NAME
from conclave_weights.convert.plan import plan_conversion
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.verify.digest import digest_of, hash_files
from conclave_weights.verify.soundness import check_weights

SHARD_BYTES = 100_000


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Floats]]:
    root = tmp_path_factory.mktemp("release")
    wanted = write_release(root)
    (root / "tokenizer.model").write_bytes(b"pieces")
    return root, wanted


@pytest.fixture
def source(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "release"
    (copy / "ckpt-0").mkdir(parents=True)
    for file in (released[0] / "ckpt-0").iterdir():
        (copy / "ckpt-0" / file.name).write_bytes(file.read_bytes())
    return copy


def plan(source: Path, target: Path, dtype: str = "bfloat16") -> ConversionPlan:
    return plan_conversion(source, target, dtype=dtype, shard_bytes=SHARD_BYTES, config=CONFIG)


def read_tensors(root: Path) -> dict[str, tuple[str, Floats]]:
    """Read by the safetensors library, not by our own lines."""
    tensors = {}
    for shard in root.glob("*.safetensors"):
        for name, stored in safetensors.deserialize(shard.read_bytes()):
            if stored["dtype"] == "BF16":
                values = as_float(np.frombuffer(stored["data"], "<u2"))
            else:
                values = np.frombuffer(stored["data"], "<f4")
            tensors[name] = (stored["dtype"], values.reshape(stored["shape"]))
    return tensors


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_tensor_is_int8_times_scale_and_rounded_once(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path, dtype: str
) -> None:
    root, wanted = released
    outcome = convert(plan(root, tmp_path / "target", dtype))
    seen = read_tensors(tmp_path / "target")
    assert seen.keys() == wanted.keys()
    for name, (stored, values) in seen.items():
        is_rounded = stored == "BF16"
        assert is_rounded == (dtype == "bfloat16" and not name.endswith((".scale", ".gate.weight"))), name
        exact = np.ascontiguousarray(wanted[name])
        expected = as_float(bfloat16_bits(exact)) if is_rounded else exact
        assert np.array_equal(values, expected), name
    assert outcome.shards == len(list((tmp_path / "target").glob("*.safetensors"))) > 5


def test_the_target_is_sound_and_holds_nothing_else(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> None:
    outcome = convert(plan(released[0], tmp_path / "target"))
    check_weights(tmp_path / "target")
    inspection = inspect_weights(tmp_path / "target")
    assert (inspection.problems, inspection.notes, inspection.total.size_bytes) == ([], [], outcome.size_bytes)
    others = {file.name for file in (tmp_path / "target").iterdir() if file.suffix != ".safetensors"}
    assert others == {"config.json", "model.safetensors.index.json", "tokenizer.model"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    shards = list((tmp_path / "target").glob("*.safetensors"))
    assert max(shard.stat().st_size for shard in shards) < SHARD_BYTES + 10_000


def test_the_default_is_the_released_model(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> None:
    count = len(list((released[0] / "ckpt-0").iterdir()))
    with pytest.raises(WeightsUnfit, match=rf"{770 - count} of 770 files are missing: tensor{count:05d}_000"):
        plan_conversion(released[0], tmp_path / "target")


@pytest.mark.parametrize("groups", [1, 8])
def test_the_pickles_are_as_long_as_the_published_files(tmp_path: Path, groups: int) -> None:
    """moe/linear of the release takes 1,611,137,347 bytes, moe/linear_1 1,611,399,491; contents begin at byte 201."""
    weight, scales = np.zeros((8, 256, 8192), np.int8), np.zeros((8, groups, 8192), np.uint16)
    path = tmp_path / "tensor00002_000"
    path.write_bytes(pickled(QuantizedWeight8bit(weight, scales)))
    published = (
        {1: 1_611_137_347, 8: 1_611_399_491}[groups] - 8 * 6144 * 32768 - 2 * 8 * (32768 if groups == 1 else 8 * 6144)
    )
    renamed = len("numpy._core.multiarray") - len("numpy.core.multiarray") if np.__version__ >= "2" else 0
    assert path.stat().st_size - weight.nbytes - scales.nbytes == published + renamed
    found = find_arrays(path)
    assert isinstance(found, QuantizedArray)
    assert found.weight.offset == 201 + renamed
    assert (found.scales.dtype, found.scales.shape) == ("bfloat16", scales.shape)


# Interruptions


CHILD = """
import json, os, signal, sys
from pathlib import Path
from conclave_weights.convert.conversion import convert
from conclave_weights.convert.plan import plan_conversion
source, target, shard_bytes, config, kill_after = json.loads(sys.argv[1])
done = 0
def on_progress(count):
    global done
    done += count
    if done > kill_after:
        os.kill(os.getpid(), signal.SIGKILL)
convert(plan_conversion(Path(source), Path(target), shard_bytes=shard_bytes, config=config), on_progress)
"""


@pytest.mark.parametrize("kill_after", [0, 250_000, 700_000])
def test_a_killed_conversion_leaves_no_target_and_goes_on(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path, kill_after: int
) -> None:
    target = tmp_path / "target"
    arguments = json.dumps([str(released[0]), str(target), SHARD_BYTES, CONFIG, kill_after])
    killed = subprocess.run([sys.executable, "-c", CHILD, arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    kept = convert(plan(released[0], target)).kept_shards
    assert (kept > 0) == (kill_after > 0)
    convert(plan(released[0], tmp_path / "at-once"))
    assert digest_of(hash_files(target)) == digest_of(hash_files(tmp_path / "at-once"))


class Stop(Exception):
    """Raised from the progress callback."""


def interrupt(source: Path, target: Path, after_bytes: int = 500_000) -> Path:
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done > after_bytes:
            raise Stop

    with pytest.raises(Stop):
        convert(plan(source, target), stop)
    return target.with_name(target.name + ".partial")


def damage_a_shard(partial: Path) -> None:
    shard = partial / "model-00001-of-00010.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def cut_the_journal(partial: Path) -> None:
    journal = partial / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        pytest.param(lambda partial: None, 0, id="nothing happened"),
        pytest.param(damage_a_shard, 1, id="a finished shard is damaged"),
        pytest.param(lambda partial: (partial / "model-00002-of-00010.safetensors").unlink(), 1, id="one is gone"),
        pytest.param(cut_the_journal, 1, id="the journal's last line is cut off"),
    ],
)
def test_only_unchanged_shards_are_kept(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path, change: Callable[[Path], None], lost: int
) -> None:
    partial = interrupt(released[0], tmp_path / "target")
    finished = len((partial / JOURNAL_NAME).read_text().splitlines()) - 1
    change(partial)
    assert convert(plan(released[0], tmp_path / "target")).kept_shards == finished - lost > 0
    convert(plan(released[0], tmp_path / "at-once"))
    assert digest_of(hash_files(tmp_path / "target")) == digest_of(hash_files(tmp_path / "at-once"))


def test_progress_counts_every_byte_once_over_both_runs(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path
) -> None:
    interrupt(released[0], tmp_path / "target")
    counted: list[int] = []
    outcome = convert(plan(released[0], tmp_path / "target"), counted.append)
    assert sum(counted) == outcome.size_bytes


def test_other_options_do_not_go_on_where_these_stopped(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path
) -> None:
    interrupt(released[0], tmp_path / "target")
    with pytest.raises(InvalidInput, match="an interrupted conversion of other files or with other options"):
        convert(plan(released[0], tmp_path / "target", "float32"))


def test_a_changed_source_does_not_go_on(source: Path, tmp_path: Path) -> None:
    interrupt(source, tmp_path / "target")
    os.utime(source / "ckpt-0" / "tensor00005_000", (1, 1))
    with pytest.raises(InvalidInput, match="an interrupted conversion of other files"):
        convert(plan(source, tmp_path / "target"))


def test_two_conversions_at_once_are_refused(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> None:
    refusals: list[str] = []

    def second(_bytes: int) -> None:
        if not refusals:
            with pytest.raises(InvalidInput, match="another conversion is running") as refusal:
                convert(plan(released[0], tmp_path / "target"))
            refusals.append(str(refusal.value))

    convert(plan(released[0], tmp_path / "target"), second)
    assert len(refusals) == 1


def test_what_lies_there_already_is_left_alone(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidInput, match="target: exists"):
        plan(released[0], tmp_path / "target")
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "mine").write_text("x")
    with pytest.raises(InvalidInput, match="is not an interrupted conversion"):
        convert(plan(released[0], tmp_path / "other"))
    assert (tmp_path / "other.partial" / "mine").read_text() == "x"


def test_an_unwritable_target_is_told_without_a_traceback(
    released: tuple[Path, dict[str, Floats]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentUnfit, match=r"target: stopped: .*correct this"):
        convert(plan(released[0], tmp_path / "file" / "target"))


def test_a_released_directory_is_found_in_both_ways(released: tuple[Path, dict[str, Floats]], tmp_path: Path) -> None:
    assert len(plan(released[0] / "ckpt-0", tmp_path / "target").shards) == 10
    with pytest.raises(WeightsUnfit, match="no checkpoint of Grok-1"):
        plan(tmp_path, tmp_path / "target")


def test_the_command_tells_what_it_made(
    released: tuple[Path, dict[str, Floats]], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(released[0], tmp_path / "one")
    carry_out(plan(released[0], tmp_path / "one"))
    told = capsys.readouterr()
    assert told.out.startswith(f"{tmp_path / 'one'}: 10 files, ")
    assert "of them kept from before" in told.out
    assert told.err == ""
    carry_out(plan(source, tmp_path / "two"))
    assert "the source has no tokenizer: copy" in capsys.readouterr().err


# What is not the release


def rewrite(index: int, content: object) -> Callable[[Path], None]:
    return lambda root: (root / "ckpt-0" / f"tensor{index:05d}_000").write_bytes(pickled(content)) and None


def write_bytes(index: int, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / "ckpt-0" / f"tensor{index:05d}_000").write_bytes(content) and None


def truncate(index: int, count: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "ckpt-0" / f"tensor{index:05d}_000"
        path.write_bytes(path.read_bytes()[:-count])

    return change


def swap(first: int, second: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        one, other = (root / "ckpt-0" / f"tensor{index:05d}_000" for index in (first, second))
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    return change


KEY, GATE_EXPERTS = 5, 2
BITS = bfloat16_bits(np.ones((1, 32), np.float32))
NOT_THE_RELEASE = [
    pytest.param(
        lambda root: (root / "ckpt-0" / "tensor00007_000").unlink(),
        "1 of 134 files are missing: tensor00007_000",
        id="a tensor missing",
    ),
    pytest.param(
        lambda root: (root / "ckpt-0" / "tensor00007_001").write_bytes(b""),
        "tensor00007_001: not part of the release",
        id="a second part of a tensor",
    ),
    pytest.param(truncate(GATE_EXPERTS, 1), "tensor00002_000: .* truncated", id="the last byte cut off"),
    pytest.param(truncate(GATE_EXPERTS, 5000), "tensor00002_000: .* truncated", id="the scales cut off"),
    pytest.param(write_bytes(3, b""), "tensor00003_000: 0 bytes, expected more: truncated", id="an empty file"),
    pytest.param(
        rewrite(0, np.zeros((VOCAB, HIDDEN + 1), np.float32)),
        rf"in_out_embed/embeddings is \[{VOCAB}, {HIDDEN + 1}\] of float32, expected \[{VOCAB}, {HIDDEN}\]",
        id="a wrong shape",
    ),
    pytest.param(rewrite(0, np.zeros((HIDDEN, VOCAB), np.float32)), "expected", id="a transposed embedding"),
    pytest.param(swap(2, 3), r"moe/linear/w is \[3, 64, 48\]", id="gate and down exchanged"),
    pytest.param(
        rewrite(KEY, np.zeros((HIDDEN, 32), np.int8)), "key/w is .* of int8, expected", id="int8 without scales"
    ),
    pytest.param(
        rewrite(
            0, QuantizedWeight8bit(np.zeros((VOCAB, HIDDEN), np.int8), bfloat16_bits(np.ones((1, HIDDEN), np.float32)))
        ),
        "embeddings is .* of int8",
        id="a quantised embedding",
    ),
    pytest.param(
        rewrite(KEY, QuantizedWeight8bit(np.zeros((HIDDEN, 32), np.int8), np.repeat(BITS, 5, axis=0))),
        r"scales of .*key/w are \[5, 32\], expected \[.a divisor of 48., 32\]",
        id="scales that do not divide the rows",
    ),
    pytest.param(
        rewrite(KEY, QuantizedWeight8bit(np.zeros((HIDDEN, 32), np.int8), BITS[0])),
        r"scales of .*key/w are \[32\]",
        id="scales of another rank",
    ),
    pytest.param(rewrite(0, np.full((VOCAB, HIDDEN), np.nan, np.float32)), "NaN", id="values that are not numbers"),
    pytest.param(
        rewrite(KEY, QuantizedWeight8bit(np.ones((HIDDEN, 32), np.int8), np.full((1, 32), 0x7F80, np.uint16))),
        "tensor00005_000: has infinite values",
        id="infinite scales",
    ),
]


@pytest.mark.parametrize(("change", "message"), NOT_THE_RELEASE)
def test_what_is_not_the_release_is_refused_and_leaves_no_target(
    source: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(source)
    with pytest.raises(WeightsUnfit, match=message):
        convert(plan(source, tmp_path / "target"))
    assert not (tmp_path / "target").exists()


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.parts


def nested(depth: int) -> bytes:
    return b"\x80\x04" + b"(" * depth + b"t" * depth + b"."


def array_of(
    dtype: bytes = b"\x8c\x02f4",
    data: bytes = b"C\x04abcd",
    shape: bytes = b"K\x01\x85",
    order: bytes = b"\x89",
) -> bytes:
    """A pickled array of one float32, written by hand."""
    reconstruct = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93\x8c\x05numpy\x8c\x07ndarray\x93"
    numpy_dtype = b"\x8c\x05numpy\x8c\x05dtype\x93" + dtype + b"\x89\x88\x87R"
    state = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (
        b"\x80\x04" + reconstruct + b"K\x00\x85C\x01b\x87R(K\x01" + shape + numpy_dtype + state + order + data + b"tb."
    )


def of_protocol(protocol: int) -> bytes:
    return pickle.dumps(np.zeros(3, np.float32), protocol)


HOSTILE = [
    pytest.param(pickle.dumps(Call(os.system, "touch owned"), 4), "the name 'posix system'", id="os.system"),
    pytest.param(pickle.dumps(Call(eval, "open('owned', 'w')"), 4), "the name 'builtins eval'", id="eval"),
    pytest.param(pickle.dumps(Call(getattr, str, "format"), 4), "the name 'builtins getattr'", id="getattr"),
    pytest.param(
        pickle.dumps(Call(subprocess.Popen, ["touch", "owned"]), 4), "the name 'subprocess Popen'", id="a process"
    ),
    pytest.param(b"\x80\x04cos\nsystem\n(\x8c\x0btouch ownedtR.", "instruction GLOBAL", id="os.system in the old way"),
    pytest.param(
        b"\x80\x04\x8c\x05numpy\x8c\x16lib.npyio.__builtins__\x93.", "the name 'numpy lib", id="a dotted name in numpy"
    ),
    pytest.param(b"\x80\x04K\x01K\x02\x93.", "a name that is no text", id="a name that is no text"),
    pytest.param(pickle.dumps(np.array([os.system], object), 4), "posix system|dtype 'O8'", id="an array of objects"),
    pytest.param(array_of(dtype=b"\x8c\x02O8"), "an array of dtype 'O8'", id="an empty array of objects"),
    pytest.param(array_of(dtype=b"K\x07"), "no plain dtype", id="a dtype that is a number"),
    pytest.param(array_of(order=b"\x88"), "Fortran order", id="an array by columns"),
    pytest.param(array_of(shape=b"K\x02\x85"), r"4 bytes for shape \[2\] of float32", id="a shape too large"),
    pytest.param(array_of(shape=b"J\xff\xff\xff\xff\x85"), "no sizes", id="a negative shape"),
    pytest.param(
        array_of(shape=b"(" + b"J\xff\xff\xff\x7f" * 400 + b"t"), "400 dimensions", id="a shape of many dimensions"
    ),
    pytest.param(
        array_of(data=b"\x8e" + struct.pack("<Q", 2**63) + b"abcd"), "truncated", id="a claimed size of 2^63 bytes"
    ),
    pytest.param(array_of(data=b"B\xff\xff\xff\xffabcd"), "truncated", id="a claimed size of 4 GiB"),
    pytest.param(b"\x80\x04X\xff\xff\xff\x7fabc.", "a text of 2147483647 bytes", id="a claimed text of 2 GiB"),
    pytest.param(array_of() + b"cos\nsystem\n.", "12 bytes after its end", id="a second pickle behind the first"),
    pytest.param(nested(100_000), "more than 500 pickle instructions", id="deep nesting"),
    pytest.param(b"\x80\x04" + b"(" * 200 + b"t" * 200 + b"R.", "an instruction without", id="nesting, then a call"),
    pytest.param(b"\x80\x04)" + b"\x94" * 100_000 + b".", "more than 500 pickle instructions", id="a huge memo"),
    pytest.param(b"\x80\x04j\xff\xff\xff\xff.", "a reference to nothing", id="a reference to nothing"),
    pytest.param(b"\x80\x04t.", "without its operands", id="a tuple without a mark"),
    pytest.param(b"\x80\x04.", "no array", id="nothing at all"),
    pytest.param(b"\x80\x04K\x01.", "no array", id="a number"),
    pytest.param(array_of()[:-4] + b"00.", "instruction POP|no array", id="an array that is thrown away"),
    pytest.param(b"\x80\x04\x8c\x08__main__\x8c\x13QuantizedWeight8bit\x93)\x81.", "no array", id="an empty weight"),
    pytest.param(
        b"\x80\x04\x8c\x08__main__\x8c\x13QuantizedWeight8bit\x93)\x81}\x8c\x09__class__K\x01sb.",
        "without exactly weight and scales",
        id="a weight with an attribute of its own",
    ),
    pytest.param(
        b"\x80\x04\x8c\x08__main__\x8c\x13QuantizedWeight8bit\x93)R.", "a call of something", id="the class is called"
    ),
    pytest.param(b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.", "an object that is no", id="ndarray is made anew"),
    pytest.param(b"\x80\x04}K\x01K\x02s.", "items of something", id="a mapping with a number as its key"),
    pytest.param(b"\x80\x04\x82\x01.", "instruction EXT1", id="an extension code"),
    pytest.param(b"\x80\x04P1\n.", "instruction PERSID", id="a persistent id"),
    pytest.param(b"\x80\x04\xff.", "byte 0xff", id="no instruction"),
    pytest.param(of_protocol(5), "pickle protocol 5", id="protocol 5"),
    pytest.param(of_protocol(2), "pickle protocol 2", id="protocol 2"),
    pytest.param(pickle.dumps(np.zeros(3, ">f4"), 4), "not little-endian", id="big-endian"),
    pytest.param(pickle.dumps(np.zeros(3, np.float64), 4), "an array of dtype 'f8'", id="float64"),
    pytest.param(b"PK\x03\x04" + bytes(100), "instruction PERSID|instruction BINPERSID", id="a zip file"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_a_pickle_that_is_no_plain_array_is_refused_by_name_and_not_run(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tensor").write_bytes(content)
    with pytest.raises(WeightsUnfit, match=message):
        find_arrays(tmp_path / "tensor")
    assert [path.name for path in tmp_path.iterdir()] == ["tensor"]


def test_the_hand_made_array_is_one(tmp_path: Path) -> None:
    """Or the table above would refuse it for another reason."""
    (tmp_path / "tensor").write_bytes(array_of())
    found = find_arrays(tmp_path / "tensor")
    assert found == StoredArray(tmp_path / "tensor", array_of().index(b"abcd"), "float32", (1,))
    assert pickle.loads(array_of().replace(b"\x15numpy.core", b"\x16numpy._core")).tobytes() == b"abcd"


# What it needs


MEMORY_CHILD = """
import json, resource, sys
from pathlib import Path
from conclave_weights.convert import values
from conclave_weights.convert.conversion import convert
from conclave_weights.convert.plan import plan_conversion
values.BAND_BYTES = 2**20
source, target, config = json.loads(sys.argv[1])
plan = plan_conversion(Path(source), Path(target), config=config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(plan)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded_by_one_matrix_and_not_by_the_model(source: Path, tmp_path: Path) -> None:
    vocabulary = 2**20
    embedding = np.zeros((vocabulary, HIDDEN), np.float32)
    rewrite(0, embedding)(source)
    arguments = json.dumps([str(source), str(tmp_path / "target"), CONFIG | {"vocab_size": vocabulary}])
    child = subprocess.run([sys.executable, "-c", MEMORY_CHILD, arguments], capture_output=True, text=True, check=True)
    assert int(child.stdout) * 1024 < 40 * 2**20 < embedding.nbytes / 4


def test_without_numpy_the_remedy_is_named(released: tuple[Path, dict[str, Floats]]) -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; from conclave_cli.main import main; "
        f"sys.argv = ['conclave', 'weights', 'convert', {str(released[0])!r}, 'target']; main()"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr.count("\n")) == (3, 1)
    assert "converting weights needs NumPy, which is not installed: pip install numpy" in child.stderr


def test_the_other_commands_do_without_numpy() -> None:
    code = "import sys, conclave_cli.weights, conclave_weights.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tiny_release_has_more_layers_than_one_digit_counts() -> None:
    """Only then does the order of the files differ from the order of the layers."""
    assert sorted(map(str, range(LAYERS))) != list(map(str, range(LAYERS)))
    assert EXPERTS > 1
