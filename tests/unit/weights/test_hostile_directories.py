"""What can lie in a directory of weights: no reader waits on it, fills its memory with it, or is led elsewhere."""

from __future__ import annotations

import ast
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conclave_weights.__main__ import _failure, _write
from conclave_weights.convert.arrays import find_arrays
from conclave_weights.convert.torch_files import find_tensors
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files import regular_files
from conclave_weights.files.headers import read_header
from conclave_weights.files.regular_files import open_to_write, read_at_most
from conclave_weights.inspection.directory import inspect_weights
from conclave_weights.inspection.plan_facts import plan_facts
from conclave_weights.verify.adapter import check_adapter
from conclave_weights.verify.awaiting import look, verify_whole
from conclave_weights.verify.digest import hash_listed, list_files
from conclave_weights.verify.soundness import check_weights

Place = Callable[[Path], object]
NOWHERE = "sha256:" + "0" * 64


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    root = tmp_path / "weights"
    root.mkdir()
    (root / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    (root / "tokenizer.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (root / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    (root / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    return root


def link_to(target: str) -> Place:
    return lambda path: path.symlink_to(target)


def pipe_behind_a_link(path: Path) -> None:
    os.mkfifo(path.parent.parent / "pipe")
    path.symlink_to(path.parent.parent / "pipe")


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(path.parent)  # its address may be of 108 bytes only
        try:
            listening.bind(path.name)
        finally:
            os.chdir(here)


NO_FILES: dict[str, Place] = {
    "a named pipe": os.mkfifo,
    "a link to a named pipe": pipe_behind_a_link,
    "a link to a device without an end": link_to("/dev/zero"),
    "a link to a device that waits for somebody": link_to("/dev/ptmx"),
    "a socket": bind_socket,
    "a directory": Path.mkdir,
}
READ = ("config.json", "model.safetensors", "model.safetensors.index.json")


@pytest.mark.parametrize("place", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("name", READ)
def test_what_is_no_file_is_refused_by_name_before_it_is_read(weights: Path, name: str, place: Place) -> None:
    (weights / name).unlink()
    place(weights / name)
    for look_at in (check_weights, lambda root: verify_whole(root, NOWHERE)):
        with pytest.raises(WeightsUnfit, match=name.partition(".")[0]):
            look_at(weights)
    assert inspect_weights(weights).problems
    with pytest.raises(WeightsUnfit):
        plan_facts(weights, 4000)


@pytest.mark.parametrize("target", ["config.json", "/nonexistent/file"], ids=["itself", "nothing"])
def test_a_link_that_leads_to(weights: Path, target: str) -> None:
    (weights / "config.json").unlink()
    (weights / "config.json").symlink_to(target)
    with pytest.raises(WeightsUnfit, match=r"config\.json"):
        check_weights(weights)


@pytest.mark.parametrize("place", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize(
    "read",
    [read_header, find_tensors, find_arrays, lambda path: hash_listed([("a", path, 4)])],
    ids=["headers", "what torch saved", "what Grok-1 was released as", "the digest"],
)
def test_no_reader_of_single_files_opens_it(tmp_path: Path, read: Callable[[Path], object], place: Place) -> None:
    (tmp_path / "sub").mkdir()
    place(tmp_path / "sub" / "file")
    with pytest.raises(WeightsUnfit, match="sub/file"):
        read(tmp_path / "sub" / "file")


@pytest.mark.parametrize("place", NO_FILES.values(), ids=NO_FILES)
def test_an_adapter_is_read_as_the_model_is(tmp_path: Path, place: Place) -> None:
    root = tmp_path / "adapter"
    root.mkdir()
    place(root / "adapter_config.json")
    with pytest.raises(WeightsUnfit, match="adapter_config"):
        check_adapter("tone", root, 16)
    with pytest.raises(WeightsUnfit):
        check_weights(root)


def test_a_link_among_what_has_a_digest_is_refused_before_anything_is_opened(weights: Path) -> None:
    """`config.json` first: it is what `check_weights` reads first."""
    (weights / "config.json").rename(weights.parent / "elsewhere.json")
    (weights / "config.json").symlink_to(weights.parent / "elsewhere.json")
    check_weights(weights)  # a hub's cache is made of links
    with pytest.raises(WeightsUnfit, match=r"config\.json is a symbolic link to .*cp -rL"):
        verify_whole(weights, NOWHERE)


def test_a_link_put_in_place_of_a_listed_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/etc/hostname")
    with pytest.raises(WeightsUnfit, match="file: is a symbolic link to /etc/hostname"):
        hash_listed([("file", tmp_path / "file", 4)])


def test_a_file_that_grows_is_read_to_its_listed_size_and_no_further(tmp_path: Path) -> None:
    """Whoever writes faster than it is read would never let it end."""
    (tmp_path / "file").write_bytes(bytes(64 * 2**20))
    read_bytes: list[int] = []
    with pytest.raises(WeightsUnfit, match="bytes read, 10 listed a moment before"):
        hash_listed([("file", tmp_path / "file", 10)], on_progress=read_bytes.append)
    assert sum(read_bytes) <= 8 * 2**20


def test_what_is_longer_than_asked_for_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**40)  # without a byte on the disk
    with pytest.raises(WeightsUnfit, match=r"config\.json: larger than 67108864 bytes"):
        check_weights(tmp_path)
    (tmp_path / "exact").write_bytes(b"1234")
    assert read_at_most(tmp_path / "exact", 4) == b"1234"
    with pytest.raises(WeightsUnfit, match="exact: larger than 3 bytes"):
        read_at_most(tmp_path / "exact", 3)


@pytest.fixture
def bottom(weights: Path) -> Iterator[Path]:
    """Made and removed step by step: what is recursive in Python's own library fails here."""
    steps = [weights]
    for _ in range(1500):
        steps.append(steps[-1] / "d")
        steps[-1].mkdir()
    yield steps[-1]
    for step in steps[:0:-1]:
        for file in step.iterdir():
            file.unlink()
        step.rmdir()


def test_directories_nested_deeper_than_python_calls_are_walked(weights: Path, bottom: Path) -> None:
    before = look(weights)
    (bottom / "code.py").touch()
    assert look(weights) != before
    assert (f"{bottom.relative_to(weights)}/code.py", 0) in list_files(weights)
    assert any("code.py" in problem for problem in inspect_weights(weights).problems)


@pytest.mark.parametrize("place", NO_FILES.values(), ids=NO_FILES)
def test_nothing_is_written_into_what_is_no_file(tmp_path: Path, place: Place) -> None:
    (tmp_path / "sub").mkdir()
    place(tmp_path / "sub" / "file")
    with pytest.raises((WeightsUnfit, OSError)):
        open_to_write(tmp_path / "sub" / "file")


def test_a_link_leads_no_writer_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(WeightsUnfit, match="link: is a symbolic link"):
        open_to_write(tmp_path / "link")
    assert (tmp_path / "mine").read_bytes() == b"kept"


def test_a_message_about_very_many_files_is_cut_at_once(weights: Path, tmp_path: Path) -> None:
    """It was cut 200 characters at a time: hours for what this makes."""
    for number in range(3000):
        (weights / f"{number:0200}").touch()
    (weights / ("\N{GRINNING FACE}" * 60)).touch()
    command = [sys.executable, "-m", "conclave_weights", "verify", "--report", str(tmp_path / "report")]
    completed = subprocess.run([*command, "--digest", NOWHERE, str(weights)], capture_output=True, timeout=120)
    assert completed.returncode == WeightsUnfit.exit_code
    report = (tmp_path / "report").read_bytes()
    assert len(report) <= 4096
    assert json.loads(report)["error"] == "DigestMismatch"


@given(st.text(st.characters(exclude_categories=[]), max_size=300), st.integers(1, 10_000))
def test_whatever_an_error_says_its_report_is_json_that_kubernetes_keeps_whole(
    tmp_path_factory: pytest.TempPathFactory, words: str, times: int
) -> None:
    """A file's name may hold half a surrogate pair, an escape sequence, or any number of signs of many bytes."""
    path = tmp_path_factory.getbasetemp() / "report"
    _write(path, _failure(WeightsUnfit(words * times)))
    assert len(path.read_bytes()) <= 4096
    told = json.loads(path.read_bytes())
    assert told["error"] == "WeightsUnfit"
    assert (words * times).startswith(told["message"])


OPENERS = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "fromfile", "memmap", "load", "copyfile"}
MAY_OPEN = {
    "regular_files.py": "this is where files are opened",
    "awaiting.py": "its notes, in a volume of the pod's own",
    "__main__.py": "the report, in a file of the kubelet's",
    "durable.py": "a directory, to flush it",
}


def calls_of_openers(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_given_a_file = name == "fromfile" and isinstance(node.args[0], ast.Name) and node.args[0].id == "file"
            if name in OPENERS and not is_given_a_file:
                yield f"{module.name}:{node.lineno} {name}"


def test_files_are_opened_in_one_place() -> None:
    package = Path(regular_files.__file__).parents[1]
    modules = [module for module in package.rglob("*.py") if module.name not in MAY_OPEN]
    assert [call for module in modules for call in calls_of_openers(module)] == []
