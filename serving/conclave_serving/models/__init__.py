"""Models that vLLM 0.32 does not serve, or serves wrongly: its plugin of the group `vllm.general_plugins`.

vLLM calls `register` once in every process it starts, sometimes twice in the same one; classes are named by string,
so nothing heavy is imported before a model asks for it. docs/models.md says what was compared with what.
"""

from __future__ import annotations

CLASSES = {
    "Grok1ModelForCausalLM": "conclave_serving.models.grok1:Grok1ModelForCausalLM",
    "DbrxForCausalLM": "conclave_serving.models.dbrx:DbrxForCausalLM",
    "PhiMoEForCausalLM": "conclave_serving.models.phimoe:PhiMoEForCausalLM",
    # Transformers 5 writes the architecture with this spelling.
    "PhimoeForCausalLM": "conclave_serving.models.phimoe:PhiMoEForCausalLM",
}
"""Architecture as config.json names it -> class that serves it."""


def register() -> None:
    """Tell vLLM of our classes, and Transformers of their configurations; keep content out of the process's logs.

    Harmless when repeated.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from conclave_serving.content_free_logs import guard_logs, silence_grammar_warnings
    from conclave_serving.models.dbrx_config import DbrxMixtureConfig
    from conclave_serving.models.grok1_config import Grok1Config

    guard_logs()
    silence_grammar_warnings()
    for config in (DbrxMixtureConfig, Grok1Config):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for architecture, model_class in CLASSES.items():
        ModelRegistry.register_model(architecture, model_class)
