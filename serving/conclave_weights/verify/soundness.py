"""Whether a directory of weights is whole and of a format that the engine loads. Reads headers, never tensors.

It runs before an engine starts, so that a fault is named at once and not after minutes of loading. Links to files are
followed here, because a hub's cache consists of links; only the digest refuses links.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from conclave.catalogue.quantization_file import QUANTIZATION_FILE, with_quantization
from conclave_weights.errors import WeightsUnfit, WeightsUnreadable
from conclave_weights.files.headers import REMEDY, read_header
from conclave_weights.files.regular_files import LONGEST_JSON_BYTES, check_directory, read_at_most
from conclave_weights.verify.adapter import RANKS, check_adapter, is_adapter

INDEX_NAME = "model.safetensors.index.json"
MODULES_NAME = "modules.json"
PICKLED_INDEX_NAME = "pytorch_model.bin.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "*.tiktoken")
NO_TOKENIZER = f"no tokenizer, expected one of {', '.join(TOKENIZER_FILES)}; copy the model's tokenizer"
BESIDE_PATTERNS = (*TOKENIZER_FILES, "*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*")
"""The other files of a directory with weights that belong to a model. The rest is code, or not of the model."""
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PICKLED_WEIGHTS = ("pytorch_model*.bin", *PICKLE_PATTERNS)
"""The first pattern that matches finds the model. Files of the later patterns then hold something else."""
_OF_A_HEAD = frozenset({"fc.weight", "model.fc.weight"})
"""What an EAGLE head reads the model's hidden states with. No decoder has such a tensor."""
_OF_TRAINING = ("training_args.bin", "optimizer", "scheduler", "scaler", "rng_state")
"""Pickles whose names begin so hold no weights."""


def check_weights(root: Path) -> None:
    """Raise WeightsUnfit at the first fault. A LoRA adapter is checked as an adapter. A head that drafts tokens for a
    model needs no tokenizer."""
    check_directory(root)
    if is_release_of_grok_1(root):
        raise WeightsUnfit(no_safetensors(root))
    if is_adapter(root):
        check_adapter(root.name, root, RANKS[-1])
        return
    read_config(root)
    if problem := embedding_problem(root):
        raise WeightsUnfit(f"weights {root}: {problem}")
    shards = sorted(root.glob("*.safetensors"))
    has_tokenizer = any(any(root.glob(pattern)) for pattern in TOKENIZER_FILES)
    if not has_tokenizer and not any(tensors_of(shard) & _OF_A_HEAD for shard in shards):
        raise WeightsUnfit(f"weights {root}: {NO_TOKENIZER}")
    index = root / INDEX_NAME
    if not shards and not index.exists():
        raise WeightsUnfit(no_safetensors(root))
    tensors = {shard.name: tensors_of(shard) for shard in shards}
    if index.exists():
        _check_index(index, tensors)


def embedding_problem(root: Path) -> str | None:
    """Why the model would embed and not answer: vLLM pools as soon as `modules.json` of sentence-transformers says so,
    whatever the class is (`vllm/transformers_utils/config.py:get_pooling_config`)."""
    path = root / MODULES_NAME
    if not path.is_file():
        return None
    try:
        modules = json.loads(read_at_most(path, LONGEST_JSON_BYTES))
    except (ValueError, RecursionError):
        return f"{MODULES_NAME} is not valid JSON; {REMEDY}"
    entries = modules if isinstance(modules, list) else []
    if not any(isinstance(entry, dict) and str(entry.get("type")).endswith(".Pooling") for entry in entries):
        return None
    return f"{MODULES_NAME} makes it an embedding model; this release serves models that answer"


def read_config(root: Path) -> dict[str, object]:
    """`config.json` as an object, with the quantization that a file beside it may describe."""
    config = read_json_object(root / "config.json")
    if (root / QUANTIZATION_FILE).exists():
        config = with_quantization(config, read_json_object(root / QUANTIZATION_FILE))
    if not config.get("architectures"):
        raise WeightsUnfit(f"{root / 'config.json'}: no `architectures`, expected the name of the model's class")
    return config


def tensors_of(shard: Path) -> frozenset[str]:
    """Names of the tensors in a safetensors file. Raises WeightsUnfit for an invalid header or another file size."""
    return frozenset(read_header(shard))


def read_weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as `model.safetensors.index.json` names it."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsUnfit(f"{index}: no `weight_map`; {REMEDY}")
    return {str(tensor): str(shard) for tensor, shard in weight_map.items()}


def without_second_copy(shards: list[str]) -> list[str]:
    """Mistral's own layout lies beside Transformers' in some directories: the same weights under other names."""
    return [name for name in shards if not name.startswith("consolidated")] or shards


def _check_index(index: Path, tensors: dict[str, frozenset[str]]) -> None:
    weight_map = read_weight_map(index)
    if missing := sorted(set(weight_map.values()) - tensors.keys()):
        raise WeightsUnfit(
            f"weights {index.parent}: {len(missing)} of {len(set(weight_map.values()))} files of {index.name} are "
            f"missing: {', '.join(missing[:5])}; copy them"
        )
    for tensor, shard in weight_map.items():
        if tensor not in tensors[shard]:
            raise WeightsUnfit(
                f"weights file {index.parent / shard}: has no tensor {tensor}, which {index.name} places there"
            )


def no_safetensors(root: Path) -> str:
    """Says why a directory has no safetensors."""
    try:
        pickled = pickled_weights(root)
    except WeightsUnfit as error:
        return str(error)
    if pickled:
        return (
            f"weights {root}: only pickled weights ({', '.join(path.name for path in pickled[:3])}), which can "
            "run code when they are loaded; expected *.safetensors: use the safetensors variant of the model, or "
            f"convert the files without running them: conclave weights convert {root} TARGET"
        )
    if is_release_of_grok_1(root):
        return (
            f"weights {root}: the released checkpoint of Grok-1, which is pickled; expected *.safetensors: convert "
            f"it with `conclave weights convert {root} TARGET`"
        )
    return f"weights {root}: no *.safetensors files; give the directory that holds them"


def pickled_weights(root: Path) -> tuple[Path, ...]:
    """The files in which PyTorch pickled the weights of a model or of an adapter. Most directories have none.

    Raises WeightsUnfit where files of the index are missing.
    """
    index = root / PICKLED_INDEX_NAME
    if index.exists():
        listed = sorted(set(read_weight_map(index).values()))
        if missing := [name for name in listed if Path(name).name != name or not (root / name).is_file()]:
            raise WeightsUnfit(
                f"weights {root}: {len(missing)} of {len(listed)} files of {index.name} are missing: "
                f"{', '.join(missing[:5])}; copy them"
            )
        return tuple(root / name for name in listed)
    return tuple(root / name for name in find_pickled(path.name for path in root.iterdir()))


def find_pickled(names: Iterable[str]) -> tuple[str, ...]:
    """The files of pickled weights among the names of a directory's files, where no index names them."""
    candidates = sorted(name for name in names if not name.startswith(_OF_TRAINING))
    for pattern in _PICKLED_WEIGHTS:
        if found := tuple(name for name in candidates if fnmatchcase(name, pattern)):
            return found
    return ()


def is_release_of_grok_1(root: Path) -> bool:
    """Whether the directory is the checkpoint that xAI released."""
    return any(any(directory.glob("tensor?????_???")) for directory in (root, root / "ckpt-0"))


def read_json_object(path: Path) -> dict[str, object]:
    """A JSON file that holds an object."""
    try:
        content = json.loads(read_at_most(path, LONGEST_JSON_BYTES))
    except FileNotFoundError:
        raise WeightsUnfit(f"weights {path.parent}: no {path.name}; give the directory that holds it") from None
    except OSError as error:
        raise WeightsUnreadable(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsUnfit(f"{path}: cannot be read: {error}; {REMEDY}") from error
    if not isinstance(content, dict):
        raise WeightsUnfit(f"{path}: has a JSON {type(content).__name__}, expected an object; {REMEDY}")
    return content
