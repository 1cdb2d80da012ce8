"""Reads the chat template of a started engine, as vLLM finds it; called by `engine.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jinja2 import TemplateError
from vllm.config import VllmConfig
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_kwargs
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.utils.mistral import is_mistral_tokenizer

from conclave_serving.chat_template import ARGUMENTS, HARMONY, MISTRAL, ChatTemplate, of_texts


def read_template(config: VllmConfig) -> ChatTemplate:
    """What a chat with this engine may say to the template."""
    reasoning = config.reasoning_config
    has_budget = reasoning is not None and reasoning.enabled
    model = config.model_config
    tokenizer: Any = cached_tokenizer_from_config(model_config=model)
    if model.hf_config.model_type == "gpt_oss":
        return replace(HARMONY, has_budget=has_budget)
    if is_mistral_tokenizer(tokenizer):
        return replace(MISTRAL, has_budget=has_budget)
    # A checkpoint may have a template for chats with tools and another one for all others.
    chats: tuple[list[dict[str, Any]] | None, ...] = (None, [{}])
    found = {resolve_chat_template(tokenizer, None, tools, model_config=model) for tools in chats}
    return of_texts({text: _arguments(tokenizer, text) for text in found if text}, has_budget=has_budget)


def _arguments(tokenizer: Any, text: str) -> frozenset[str]:
    """The arguments that vLLM would hand to this text. A text that is no template is the renderer's to refuse."""
    try:
        return frozenset(resolve_chat_template_kwargs(tokenizer, text, dict.fromkeys(ARGUMENTS, True)))
    except TemplateError:
        return frozenset()
