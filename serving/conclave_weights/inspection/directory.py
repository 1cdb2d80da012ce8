"""What a directory of weights holds, and all of its faults at once. Reads headers, never tensors.

`conclave weights inspect` calls it. `verify/soundness.py` is the quick check that stops at the first fault. Weights
with a problem cannot be served as they are; a note does not prevent serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from conclave.catalogue.engine_classes import engine_class
from conclave.catalogue.facts import known_architectures, read_config
from conclave.errors import ANOTHER_CHECKPOINT, InvalidInput, NotPlanned, NotServed, UnknownModel
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import REMEDY, TensorHeader, read_header
from conclave_weights.files.regular_files import check_directory, entries_below
from conclave_weights.inspection.engine_config import config_faults, has_engine_class
from conclave_weights.inspection.layouts import ExpectedTensors, expected_tensors
from conclave_weights.verify.soundness import (
    INDEX_NAME,
    NO_TOKENIZER,
    PICKLE_PATTERNS,
    TOKENIZER_FILES,
    embedding_problem,
    no_safetensors,
    read_json_object,
    read_weight_map,
    without_second_copy,
)
from conclave_weights.verify.soundness import read_config as read_config_file

_SHOWN_NAMES = 5
_BYTE_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass
class DtypeSum:
    """The tensors of one type. `parameters` counts elements, so packed weights count as their containers."""

    tensors: int = 0
    parameters: int = 0
    size_bytes: int = 0


@dataclass
class Inspection:
    """The facts of a directory, and the findings as sentences."""

    path: str
    architecture: str | None = None
    config_dtype: str | None = None
    compared_with: str = "nothing: the problem with config.json is below"
    """What the tensors were compared with, or why they could not be compared."""
    shards: int = 0
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict, repr=False)
    """Every tensor that an engine reads."""
    dtypes: dict[str, DtypeSum] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> DtypeSum:
        sums = self.dtypes.values()
        return DtypeSum(
            sum(one.tensors for one in sums), sum(one.parameters for one in sums), sum(one.size_bytes for one in sums)
        )


def inspect_weights(root: Path) -> Inspection:
    """Check everything. Raises WeightsUnfit only where there is no directory."""
    check_directory(root)
    inspection = Inspection(str(root))
    config = _read_config(root, inspection)
    tensors, is_whole = _read_tensors(root, inspection)
    inspection.tensors = tensors
    if config is not None:
        inspection.problems += config_faults(inspection.architecture or "", config)
        _compare(config, tensors, is_whole, inspection)
        _look_for_code(root, config, inspection)
    _look_for_pickles(root, bool(tensors), inspection)
    if problem := embedding_problem(root):
        inspection.problems.append(problem)
    if not any(any(root.glob(pattern)) for pattern in TOKENIZER_FILES):
        inspection.problems.append(NO_TOKENIZER)
    return inspection


def _read_config(root: Path, inspection: Inspection) -> dict[str, object] | None:
    try:
        config = read_config_file(root)
    except WeightsUnfit as error:
        inspection.problems.append(str(error))
        return None
    architectures = config["architectures"]
    if isinstance(architectures, list) and isinstance(architectures[0], str):
        inspection.architecture = architectures[0]
    else:
        inspection.problems.append(
            f"config.json: architectures is {architectures!r:.80}, expected a list with the name of the model's class"
        )
    dtype = config.get("dtype") or config.get("torch_dtype")
    inspection.config_dtype = str(dtype).removeprefix("torch.") if dtype else None
    return config


def _read_tensors(root: Path, inspection: Inspection) -> tuple[dict[str, TensorHeader], bool]:
    """Tensors of the files that an engine reads (those of the index, or all), and whether all files could be read."""
    files = sorted(path.name for path in root.glob("*.safetensors"))
    weight_map = _read_index(root, files, inspection)
    if weight_map is None:
        listed = without_second_copy(files)
        if not files and not (root / INDEX_NAME).exists():
            inspection.problems.append(no_safetensors(root))
    else:
        listed = sorted(set(weight_map.values()))
        if unread := sorted(set(files) - set(listed)):
            inspection.notes.append(f"{_some(unread)}: not in the index, so no engine reads them")
    headers: dict[str, Mapping[str, TensorHeader]] = {}
    for name in listed:
        if name in files:
            try:
                headers[name] = read_header(root / name)
            except WeightsUnfit as error:
                inspection.problems.append(str(error))
    inspection.shards = len(headers)
    _count(headers, inspection)
    _check_places(headers, weight_map or {}, inspection)
    return {tensor: stored for header in headers.values() for tensor, stored in header.items()}, len(headers) == len(
        listed
    )


def _count(headers: Mapping[str, Mapping[str, TensorHeader]], inspection: Inspection) -> None:
    for stored in chain.from_iterable(header.values() for header in headers.values()):
        part = inspection.dtypes.setdefault(stored.dtype, DtypeSum())
        part.tensors += 1
        part.parameters += stored.elements
        part.size_bytes += stored.size_bytes


def _check_places(
    headers: Mapping[str, Mapping[str, TensorHeader]], weight_map: Mapping[str, str], inspection: Inspection
) -> None:
    """Each tensor must be in one file only, and in the file that the index names."""
    places: dict[str, list[str]] = {}
    for name, header in headers.items():
        for tensor in header:
            places.setdefault(tensor, []).append(name)
    doubled = [f"{tensor} is in {' and '.join(names)}" for tensor, names in places.items() if len(names) > 1]
    if doubled:
        inspection.problems.append(
            f"{len(doubled)} tensors are in two files: {_some(doubled, '; ')}, expected in one; {REMEDY}"
        )
    moved = [
        f"{tensor} is in {places[tensor][0]}, the index says {name}"
        for tensor, name in weight_map.items()
        if tensor in places and name in headers and name not in places[tensor]
    ]
    if moved:
        inspection.problems.append(
            f"{len(moved)} tensors are not in the file that the index names: {_some(moved, '; ')}; {REMEDY}"
        )
    absent = [tensor for tensor, name in weight_map.items() if tensor not in places and name in headers]
    if absent:
        inspection.problems.append(f"{len(absent)} tensors of the index are in no file: {_some(absent)}; {REMEDY}")


def _read_index(root: Path, files: Iterable[str], inspection: Inspection) -> dict[str, str] | None:
    index = root / INDEX_NAME
    if not index.exists():
        return None
    try:
        weight_map = read_weight_map(index)
    except WeightsUnfit as error:
        inspection.problems.append(str(error))
        return None
    listed = set(weight_map.values())
    if absent := sorted(listed - set(files)):
        inspection.problems.append(
            f"{len(absent)} of {len(listed)} files of {index.name} are missing: {_some(absent)}; copy them"
        )
    return weight_map


def _compare(
    config: Mapping[str, object], tensors: Mapping[str, TensorHeader], is_whole: bool, inspection: Inspection
) -> None:
    architecture = inspection.architecture or ""
    if architecture not in known_architectures():
        inspection.compared_with = f"nothing: {_why_not_compared(config, architecture)}"
        return
    try:
        facts = read_config(config)
        expected = expected_tensors(architecture, config, facts)
    except NotPlanned as error:
        inspection.compared_with = "nothing: no reader knows the quantization of these weights"
        inspection.notes.append(str(error))
        return
    except (InvalidInput, WeightsUnfit) as error:
        remedy = f"; {ANOTHER_CHECKPOINT}" if isinstance(error, NotServed) else ""
        inspection.problems.append(f"{error}{remedy}")
        return
    if facts.weight_format is not None:
        inspection.compared_with = (
            f"nothing: weights quantised by {facts.weight_format.declared} have other names and shapes"
        )
    elif expected is None:
        inspection.compared_with = f"nothing: Conclave has no table of tensor names for {architecture}"
    elif tensors:
        inspection.compared_with = f"the {len(expected.required)} tensors that config.json implies for {architecture}"
        _compare_tensors(expected, tensors, is_whole, inspection)
        stored = _BYTE_TYPES.get(inspection.config_dtype or "")
        if stored is not None and tensors and stored not in inspection.dtypes:
            inspection.notes.append(
                f"config.json says {inspection.config_dtype}, the files hold {_some(inspection.dtypes)}"
            )


def _why_not_compared(config: Mapping[str, object], architecture: str) -> str:
    try:
        known = engine_class(config, architecture)
    except UnknownModel as error:
        return str(error)
    return f"Conclave plans {known.name} by the headers of its tensors, and has no table of their names"


def _compare_tensors(
    expected: ExpectedTensors, tensors: Mapping[str, TensorHeader], is_whole: bool, inspection: Inspection
) -> None:
    known = expected.required | expected.redundant
    # A file that cannot be read is already a problem. Its tensors are not known.
    missing = [name for name in expected.required if name not in tensors] if is_whole else []
    # Older Llama checkpoints hold the rotary frequencies, which every engine computes itself.
    unexpected = [name for name in tensors if name not in known and not name.endswith(".rotary_emb.inv_freq")]
    wrong = [name for name, shape in known.items() if name in tensors and tensors[name].shape != shape]
    if missing:
        inspection.problems.append(f"{len(missing)} tensors are missing: {_some(missing)}; copy the weights again")
    if unexpected:
        inspection.problems.append(
            f"{len(unexpected)} tensors are unexpected: {_some(unexpected)}; use the config.json of these weights"
        )
    if wrong:
        shapes = [f"{name} is {_shape(tensors[name].shape)}, expected {_shape(known[name])}" for name in wrong]
        inspection.problems.append(
            f"{len(wrong)} shapes differ from config.json: {_some(shapes, '; ')}; use the config.json of these weights"
        )


def _look_for_code(root: Path, config: Mapping[str, object], inspection: Inspection) -> None:
    """A model that needs its repository's code is a problem, because the engine never trusts code.

    The engine ignores the `auto_map` of a model that it knows itself. Files of code are refused even then: another
    program that reads these weights may run them.
    """
    if config.get("auto_map") and has_engine_class(inspection.architecture or "", config):
        inspection.notes.append(
            "config.json: auto_map names code, which is never run; the engine uses classes of its own"
        )
    elif config.get("auto_map"):
        inspection.problems.append(
            f"config.json: auto_map names code for {inspection.architecture}, which is never run; use a model whose "
            "architecture and model_type the engine knows"
        )
    if files := _files(root, "*.py"):
        inspection.problems.append(
            f"{_some(files)}: Python code among the weights, expected none; remove the code, then compute the digest"
        )
    tokenizer = root / "tokenizer_config.json"
    if tokenizer.exists() and not (root / "tokenizer.json").exists():
        try:
            has_code = bool(read_json_object(tokenizer).get("auto_map"))
        except WeightsUnfit as error:
            inspection.problems.append(str(error))
            return
        if has_code:
            inspection.problems.append(
                "tokenizer_config.json: auto_map names code, which is never run; add the model's tokenizer.json"
            )


def _look_for_pickles(root: Path, has_tensors: bool, inspection: Inspection) -> None:
    pickles = sorted(chain.from_iterable(_files(root, pattern) for pattern in PICKLE_PATTERNS))
    if pickles and has_tensors:
        inspection.notes.append(
            f"{_some(pickles)}: pickles, which can run code when they are loaded; Conclave's engines do not read them"
        )


def _files(root: Path, pattern: str) -> list[str]:
    """The files below `root` without hidden files, which are not part of the weights."""
    entries = entries_below(root, lambda _: None)
    found = (Path(entry.path).relative_to(root) for entry in entries if fnmatchcase(entry.name, pattern))
    return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _some(names: Iterable[str], separator: str = ", ") -> str:
    listed = list(names)
    more = len(listed) - _SHOWN_NAMES
    return separator.join(listed[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
