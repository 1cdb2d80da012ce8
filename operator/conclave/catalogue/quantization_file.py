"""The file beside config.json in which older releases of NVIDIA's ModelOpt say how the weights are quantized.

vLLM takes it for the `quantization_config` of a config.json that has none (`vllm/transformers_utils/config.py`), and
so does whoever reads a config.json here. Standard library only, because pods read it before an engine starts.
"""

from __future__ import annotations

from collections.abc import Mapping

QUANTIZATION_FILE = "hf_quant_config.json"
_MIXED = "MIXED_PRECISION"
_LAYERS = "quantized_layers"


def with_quantization(config: Mapping[str, object], beside: Mapping[str, object]) -> dict[str, object]:
    """The config.json with what the file beside it adds: all of it, or the layers of a mixture without layers."""
    stated = config.get("quantization_config")
    if stated is None:
        return {**config, "quantization_config": dict(beside)}
    if isinstance(stated, Mapping) and str(stated.get("quant_algo")).upper() == _MIXED and _LAYERS not in stated:
        listed = beside.get("quantization", beside)
        if isinstance(listed, Mapping) and _LAYERS in listed:
            excluded = listed.get("exclude_modules", stated.get("ignore", []))
            return {**config, "quantization_config": {**stated, _LAYERS: listed[_LAYERS], "ignore": excluded}}
    return dict(config)
