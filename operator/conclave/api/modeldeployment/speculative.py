"""`spec.engine.speculative`: how tokens are drafted, which the model then checks, several of them in one step."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from conclave.api.base import ApiModel
from conclave.api.formats import Sha256Digest
from conclave.api.modeldeployment.source import DraftSource
from conclave.api.rules import Message, Rule


class SpeculativeMethod(StrEnum):
    """Where drafts come from. `ngram`: the request's own text. `eagle` and `eagle3`: a small head, whose files `draft`
    names. `mtp`: the layers for it that the model's own weights have."""

    NGRAM = "ngram"
    EAGLE = "eagle"
    EAGLE3 = "eagle3"
    MTP = "mtp"


METHODS_WITH_DRAFT = (SpeculativeMethod.EAGLE, SpeculativeMethod.EAGLE3)
"""Drafts come from files of their own."""


class Draft(ApiModel):
    """The head that drafts tokens, in safetensors. It was trained for this one model."""

    source: DraftSource
    """Where the head's files are: `persistentVolumeClaim` or `image`. The claim of the model may hold them too."""
    digest: Sha256Digest | None = None
    """Digest of the head's files, as `conclave weights digest` prints it. It is checked before the engine starts."""


class Speculative(ApiModel):
    """Speculative decoding: tokens are drafted, and the model checks several of them in one step. Answers stay those of
    the model. A request with `min_p` or `logit_bias` is refused."""

    rules = (
        Rule(
            "has(self.draft) == (self.method in ['eagle', 'eagle3'])",
            lambda speculative: (speculative.draft is not None) == (speculative.method in METHODS_WITH_DRAFT),
            Message("method is {method}: draft is needed with eagle and eagle3, and refused with another method"),
        ),
        Rule(
            "self.method == 'ngram' || !(has(self.promptLookupMin) || has(self.promptLookupMax))",
            lambda speculative: (
                speculative.method == SpeculativeMethod.NGRAM
                or (speculative.prompt_lookup_min is None and speculative.prompt_lookup_max is None)
            ),
            Message("method is {method}: promptLookupMin and promptLookupMax are for method ngram only: remove them"),
        ),
        Rule(
            "!has(self.promptLookupMin) || !has(self.promptLookupMax) || self.promptLookupMin <= self.promptLookupMax",
            lambda speculative: (
                speculative.prompt_lookup_min is None
                or speculative.prompt_lookup_max is None
                or speculative.prompt_lookup_min <= speculative.prompt_lookup_max
            ),
            Message(
                "promptLookupMin {promptLookupMin|0} is more than promptLookupMax {promptLookupMax|0}: "
                "lower promptLookupMin, or raise promptLookupMax"
            ),
        ),
    )

    method: SpeculativeMethod
    num_speculative_tokens: Annotated[int, Field(ge=1, le=32)]
    """Tokens that are drafted for each step of a sequence."""
    prompt_lookup_max: Annotated[int, Field(ge=1, le=64)] | None = None
    """Most tokens of the end of a text that are looked up in the text before. Default: promptLookupMin, or else 5."""
    prompt_lookup_min: Annotated[int, Field(ge=1, le=64)] | None = None
    """Fewest such tokens. Default: promptLookupMax, or else 5."""
    draft: Draft | None = None
    """The head of `eagle` and `eagle3`. Needed with them, and refused with another method."""
