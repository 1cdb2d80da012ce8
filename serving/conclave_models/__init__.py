"""vLLM's plugin (group `vllm.general_plugins`): models that vLLM 0.32 does not serve, or serves wrongly.

vLLM calls `register` in every process that it starts, sometimes twice in one process. Classes are named by string, so
that nothing heavy is imported before a model needs it. docs/models.md says what each class was compared with.
"""

from __future__ import annotations

CLASSES = {
    "Grok1ModelForCausalLM": "conclave_models.grok1:Grok1ModelForCausalLM",
    "DbrxForCausalLM": "conclave_models.dbrx:DbrxForCausalLM",
    "PhiMoEForCausalLM": "conclave_models.phimoe:PhiMoEForCausalLM",
    # Transformers 5 writes the architecture with this spelling.
    "PhimoeForCausalLM": "conclave_models.phimoe:PhiMoEForCausalLM",
}
"""Architecture as config.json names it -> class that serves it."""


def register() -> None:
    """Register our classes in vLLM and their configurations in Transformers, and keep content out of the logs.

    Harmless when repeated.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from conclave_models.content_free_logs import guard_logs, silence_grammar_warnings
    from conclave_models.dbrx_config import DbrxMixtureConfig
    from conclave_models.grok1_config import Grok1Config

    guard_logs()
    silence_grammar_warnings()
    for config in (DbrxMixtureConfig, Grok1Config):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    for architecture, model_class in CLASSES.items():
        ModelRegistry.register_model(architecture, model_class)
