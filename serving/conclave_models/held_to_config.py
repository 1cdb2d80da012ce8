"""Compares the tensors of a checkpoint with its config.json while they stream into a model.

vLLM loads a tensor that is too small into part of a parameter, and does not notice a missing tensor of a fused layer.
The model would start and generate nonsense. `conclave up` compares before it starts; this module compares whenever our
classes load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from vllm.config import VllmConfig

from conclave.catalogue.facts import read_config
from conclave_weights.errors import WeightsUnfit
from conclave_weights.inspection.layouts import expected_tensors

SHOWN_NAMES = 5
Weights = Iterable[tuple[str, torch.Tensor]]


def held_to_config(weights: Weights, vllm_config: VllmConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights unchanged. Raises WeightsUnfit at a name or shape that config.json does not imply, or at the end
    where tensors are missing.

    Quantized checkpoints have names of their own and are not compared.
    """
    config = vllm_config.model_config.hf_config.to_dict()
    facts = read_config(config)
    expected = None if facts.weight_format else expected_tensors(facts.architecture, config, facts)
    if expected is None:
        yield from weights
        return
    shapes = expected.required | expected.redundant
    missing = dict.fromkeys(expected.required)
    for name, tensor in weights:
        if not name.endswith(".rotary_emb.inv_freq"):  # some checkpoints hold it; every engine computes it
            if shapes.get(name) != tuple(tensor.shape):
                wanted = list(shapes[name]) if name in shapes else "no tensor of this name"
                raise WeightsUnfit(
                    f"tensor {name}: shape {list(tensor.shape)}, expected {wanted} by config.json; "
                    "take the config.json of these weights"
                )
            missing.pop(name, None)
        yield name, tensor
    # With this option vLLM does not read the experts of other ranks.
    if missing and not vllm_config.parallel_config.enable_ep_weight_filter:
        some = ", ".join(list(missing)[:SHOWN_NAMES])
        raise WeightsUnfit(
            f"{len(missing)} of {len(expected.required)} tensors are missing: {some}; copy the weights again"
        )
