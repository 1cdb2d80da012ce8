"""Readers of Grok-1, in the shape of `conclave_models.grok1`, and of Grok-2, which nothing here serves.

Grok-2 is read after its config.json and the class that vLLM had until 0.24.
"""

from __future__ import annotations

from collections.abc import Callable

from conclave.catalogue.architectures.blocks import decoder, grouped_attention, layer_count, rotary
from conclave.catalogue.architectures.fields import Fields
from conclave.catalogue.shapes import DenseMlp, ExpertMlp, Layer, ModelFacts


def _grok(fields: Fields) -> ModelFacts:
    experts_name = "num_local_experts" if fields.has("num_local_experts") else "num_experts"
    per_token = "num_experts_per_tok" if fields.has("num_experts_per_tok") else "num_selected_experts"
    experts, top_k = fields.size(experts_name), fields.size(per_token)
    if top_k > experts:
        raise fields.refuse(per_token, f"at most {experts_name} ({experts})")
    width = fields.size("moe_intermediate_size", fields.size("intermediate_size"))
    dense = DenseMlp(intermediate=fields.size("intermediate_size")) if fields.flag("residual_moe") else None
    layer = Layer(
        attention=grouped_attention(fields),
        dense=dense,
        # float32 where no kernel of the accelerator multiplies into float32: a hundred-thousandth of the weights.
        moe=ExpertMlp(experts=experts, top_k=top_k, intermediate=width, router_dtype="float32"),
        norms=4,
    )
    return decoder(
        fields,
        fields.architecture(),
        (layer,) * layer_count(fields),
        rotary=rotary(fields, grouped_attention(fields).head_dim),
    )


READERS: dict[str, Callable[[Fields], ModelFacts]] = {
    "Grok1ModelForCausalLM": _grok,
    "Grok1ForCausalLM": _grok,
}
