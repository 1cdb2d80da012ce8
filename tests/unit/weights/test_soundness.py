"""Damaged or unloadable weights are named before an engine is started."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.headers import read_headers
from conclave_weights.verify.soundness import check_weights, read_config, tensors_of


def safetensors(**tensors: int) -> bytes:
    """A file with float32 vectors of the given lengths."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, length in tensors.items():
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [offset, offset + 4 * length]}
        offset += 4 * length
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model-1.safetensors").write_bytes(safetensors(a=3, b=5))
    (tmp_path / "model-2.safetensors").write_bytes(safetensors(c=7))
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def test_sound_weights_pass(weights: Path) -> None:
    check_weights(weights)


@pytest.mark.parametrize(("tensor", "is_head"), [("fc.weight", True), ("model.fc.weight", True), ("model.fc1", False)])
def test_only_a_head_that_drafts_needs_no_tokenizer(tmp_path: Path, tensor: str, is_head: bool) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLMEagle3"]}')
    (tmp_path / "model.safetensors").write_bytes(safetensors(**{tensor: 3}))
    if is_head:
        check_weights(tmp_path)
    else:
        with pytest.raises(WeightsUnfit, match="no tokenizer"):
            check_weights(tmp_path)


def test_quantization_beside_config_json_is_part_of_the_config(weights: Path) -> None:
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (weights / "hf_quant_config.json").write_text(json.dumps(beside))
    check_weights(weights)
    assert read_config(weights)["quantization_config"] == beside


def test_links_of_a_hub_cache_are_followed(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    snapshot = tmp_path_factory.mktemp("snapshot")
    for file in weights.iterdir():
        (snapshot / file.name).symlink_to(file)
    check_weights(snapshot)


def shorten(name: str, by: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) - by])

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content) and None


def unlink(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return change


def only_pickles(root: Path) -> None:
    for path in root.glob("model*"):
        path.unlink()
    (root / "pytorch_model.bin").write_bytes(b"\x80\x04")


def only_the_release_of_grok_1(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()
    (root / "ckpt-0").mkdir()
    (root / "ckpt-0" / "tensor00000_000").write_bytes(b"\x80\x04.")


HUGE = struct.pack("<Q", 2**60) + b"{}"
WRONG_SHAPE = safetensors(a=3).replace(b'"shape": [3]', b'"shape": [4]')
POOLS = b'[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]'
NOT_JSON = struct.pack("<Q", 4) + b"abcd"

FAULTS = [
    pytest.param(unlink("config.json"), "no config.json", id="no config"),
    pytest.param(write("config.json", b"{"), "config.json: cannot be read", id="config is cut off"),
    pytest.param(write("config.json", b"[]"), "expected an object", id="config is a list"),
    pytest.param(write("config.json", b"{}"), "no `architectures`", id="config names no architecture"),
    pytest.param(
        write("modules.json", POOLS), "makes it an embedding model", id="sentence-transformers' modules that pool"
    ),
    pytest.param(write("modules.json", b"["), "modules.json is not valid JSON", id="modules are cut off"),
    pytest.param(unlink("tokenizer.json"), "no tokenizer", id="no tokenizer"),
    pytest.param(shorten("model-2.safetensors", 1), "model-2.safetensors: .*: truncated", id="last byte missing"),
    pytest.param(write("model-2.safetensors", b"\x01"), "truncated", id="cut off in the header's length"),
    pytest.param(write("model-2.safetensors", b""), "truncated", id="an empty file"),
    pytest.param(write("model-2.safetensors", HUGE), "no safetensors header length", id="a huge header length"),
    pytest.param(write("model-2.safetensors", NOT_JSON), "header is invalid", id="a header that is not JSON"),
    pytest.param(write("model-2.safetensors", WRONG_SHAPE), "header is invalid .a: 12 bytes", id="shape against bytes"),
    pytest.param(write("model-2.safetensors", safetensors(c=7) + b"x"), "its header says", id="bytes after the end"),
    pytest.param(unlink("model-2.safetensors"), "1 of 2 files .* missing: model-2.safetensors", id="a shard missing"),
    pytest.param(write("model-2.safetensors", safetensors(d=7)), "has no tensor c", id="a tensor missing"),
    pytest.param(write("model.safetensors.index.json", b"{}"), "no `weight_map`", id="an index without a map"),
    pytest.param(
        only_the_release_of_grok_1,
        "is pickled.*convert it with `conclave weights convert",
        id="the released checkpoint of Grok-1",
    ),
    pytest.param(only_pickles, "only pickled weights .pytorch_model.bin.", id="pickles only"),
    pytest.param(
        unlink("model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"),
        "no .*safetensors files",
        id="no weights at all",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_fault_is_named(weights: Path, fault: Callable[[Path], None], message: str) -> None:
    fault(weights)
    with pytest.raises(WeightsUnfit, match=message):
        check_weights(weights)


def test_modules_that_pool_nothing_change_nothing(weights: Path) -> None:
    (weights / "modules.json").write_bytes(b'[{"type": "sentence_transformers.models.Transformer"}, 1]')
    check_weights(weights)


def test_a_second_copy_in_another_layout_counts_once(weights: Path) -> None:
    (weights / "model.safetensors.index.json").unlink()
    shards = read_headers(weights)
    (weights / "consolidated.safetensors").write_bytes(safetensors(other=3))
    assert read_headers(weights) == shards


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnfit, match="no such directory"):
        check_weights(tmp_path / "absent")


def test_tensor_names_of_an_empty_file_set(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors())
    assert tensors_of(tmp_path / "x.safetensors") == frozenset()
