"""Whether a directory holds a LoRA adapter that vLLM loads, and whether it fits a base model; reads no tensor.

`conclave up` and every replica call it before an engine starts. `vllm/lora/peft_helper.py` defines what vLLM loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conclave_weights.errors import WeightsUnfit, WeightsUnreadable
from conclave_weights.files.headers import TensorHeader, read_header
from conclave_weights.files.regular_files import LONGEST_JSON_BYTES, read_at_most

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which vLLM has kernels. An adapter of another rank takes the next larger rank."""
PLAIN: Mapping[str, tuple[object, ...]] = {
    "bias": (None, "none"),
    **dict.fromkeys(("use_dora", "lora_bias", "use_qalora"), (None, False)),
    **dict.fromkeys(("modules_to_save", "alora_invocation_tokens", "layer_replication"), (None, [])),
    "use_bdlora": (None, {}),
}
"""Settings of PEFT, with the values of a plain LoRA. vLLM does not support other values."""
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FLOATS = ("F64", "F32", "BF16", "F16")
_REMEDY = "give an adapter that was trained for this model"


def is_adapter(root: Path) -> bool:
    """Whether the directory holds a LoRA adapter and not a model."""
    return (root / CONFIG).exists() and not (root / "config.json").exists()


def check_adapter(name: str, root: Path, max_rank: int) -> Mapping[str, TensorHeader]:
    """The adapter's tensors by name. Raises WeightsUnfit at the first fault that vLLM would refuse or misread."""
    where = f"adapter {name} at {root}"
    config = _config(where, root)
    if config.get("peft_type") != "LORA":
        raise WeightsUnfit(f"{where}: {CONFIG} has peft_type {config.get('peft_type')}, expected LORA")
    for setting, plain in PLAIN.items():
        if config.get(setting) not in plain:
            raise WeightsUnfit(
                f"{where}: {CONFIG} has {setting} {json.dumps(config[setting])}, which vLLM does not serve; "
                "train it as a plain LoRA, or merge it into the weights"
            )
    rank = _rank(where, config)
    if rank > max_rank:
        enough = next((known for known in RANKS if known >= rank), None)
        remedy = f"set maxRank of this adapter to at least {enough}" if enough else f"vLLM takes at most {RANKS[-1]}"
        raise WeightsUnfit(f"{where}: rank {rank} in {CONFIG} is more than the maxRank {max_rank}: {remedy}")
    if not (root / TENSORS).is_file():
        raise WeightsUnfit(f"{where}: {_no_tensors(root)}")
    tensors = read_header(root / TENSORS)
    if not tensors:
        raise WeightsUnfit(f"{where}: {TENSORS} has no tensor; save the adapter again")
    for tensor, header in tensors.items():
        match = _TENSOR.fullmatch(tensor)
        if match is None or len(header.shape) != 2:
            raise WeightsUnfit(
                f"{where}: tensor {tensor} of shape {list(header.shape)} is not a lora_A or lora_B of a linear "
                "layer, and vLLM serves no other tensors"
            )
        seen = header.shape[0 if match["side"] == "A" else 1]
        if seen > rank:
            raise WeightsUnfit(
                f"{where}: tensor {tensor} has rank {seen}, {CONFIG} says {rank}; save the adapter again"
            )
    return tensors


def check_fits(name: str, adapter: Mapping[str, TensorHeader], weights: Path) -> None:
    """Raises WeightsUnfit where the base model does not have a module of the adapter, or has it in another shape."""
    base = {tensor: header for shard in weights.glob("*.safetensors") for tensor, header in read_header(shard).items()}
    modules = {tensor.rpartition(".")[0] for tensor in base}
    for tensor, header in sorted(adapter.items()):
        match = _TENSOR.fullmatch(tensor)
        if match is None or ".experts" in tensor:  # some checkpoints fuse experts: vLLM compares them itself
            continue
        module, is_input = match["module"], match["side"] == "A"
        if module not in modules:
            raise WeightsUnfit(f"adapter {name}: the model in {weights} has no {module}; {_REMEDY}")
        pair = tensor.replace(".lora_A.", ".lora_B.") if is_input else tensor.replace(".lora_B.", ".lora_A.")
        if pair not in adapter:
            raise WeightsUnfit(f"adapter {name}: {tensor} without {pair}; save the adapter again")
        weight = base.get(f"{module}.weight")
        if weight is None or weight.dtype not in _FLOATS or len(weight.shape) != 2:  # a packed weight has another shape
            continue
        seen, expected = header.shape[1 if is_input else 0], weight.shape[1 if is_input else 0]
        if seen != expected:
            raise WeightsUnfit(
                f"adapter {name}: {tensor} is of shape {list(header.shape)}, for {'in' if is_input else 'out'}puts of "
                f"{seen}; the model in {weights} has {expected}; {_REMEDY}"
            )


def _config(where: str, root: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(read_at_most(root / CONFIG, LONGEST_JSON_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsUnfit(f"{where}: no {CONFIG}; give the directory that PEFT saved the adapter in") from None
    except OSError as error:
        raise WeightsUnreadable(f"{where}: {CONFIG} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsUnfit(f"{where}: {CONFIG} cannot be read: {error}; copy it again") from error
    if not isinstance(config, dict):
        raise WeightsUnfit(f"{where}: {CONFIG} has a JSON {type(config).__name__}, expected an object")
    return config


def _rank(where: str, config: Mapping[str, Any]) -> int:
    """The largest of the adapter's ranks. `rank_pattern` gives single modules a rank of their own."""
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])]
    for rank in ranks:
        if type(rank) is not int or rank < 1:
            raise WeightsUnfit(f"{where}: rank {json.dumps(rank)} in {CONFIG}, expected a whole number from 1")
    return int(max(ranks))


def _no_tensors(root: Path) -> str:
    pickle = next((name for name in PICKLES if (root / name).exists()), None)
    if pickle is None:
        return f"no {TENSORS}; give the directory that PEFT saved the adapter in"
    return (
        f"{pickle} is a pickle, which can run code when loaded; convert it without running it: "
        f"conclave weights convert {root} TARGET"
    )
