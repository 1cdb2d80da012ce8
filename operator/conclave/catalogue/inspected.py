"""What an inspection Job tells of a model's files: their config.json and their sizes, as a pod's termination message.

Written by `python -m conclave_weights inspect`, read by the operator, which believes nothing of it: a pod may write
anything. config.json is packed, for Kubernetes keeps 4096 bytes, and a quantised model's may name every layer (10 kB).
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.alias_generators import to_camel

from conclave.catalogue.measured import MeasuredWeights
from conclave.errors import InvalidInput
from conclave.kubernetes.reports import LONGEST_REPORT_BYTES

LONGEST_CONFIG_BYTES = 2**18
_EXPECTED = "expected a JSON object, compressed by zlib, in base64"


def _pack(content: dict[str, object] | MeasuredWeights) -> str:
    plain = content.model_dump(exclude_defaults=True) if isinstance(content, MeasuredWeights) else content
    text = json.dumps(plain, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode()


def _unpack(packed: object) -> object:
    if not isinstance(packed, str):
        return packed
    try:
        inflated = zlib.decompressobj()
        text = inflated.decompress(base64.b64decode(packed, validate=True), LONGEST_CONFIG_BYTES)
        if not inflated.eof:
            raise ValueError(f"it is cut off, or of more than {LONGEST_CONFIG_BYTES} bytes")
        return json.loads(text)
    except (ValueError, zlib.error, RecursionError) as error:
        raise ValueError(f"{_EXPECTED}: {error}") from error


PackedConfig = Annotated[dict[str, object], BeforeValidator(_unpack), PlainSerializer(_pack, when_used="json")]


def _unpack_weights(packed: object) -> object:
    if not isinstance(packed, str):
        return packed
    try:
        return MeasuredWeights.model_validate(_unpack(packed))
    except ValidationError as error:
        raise ValueError(f"no measured weights: {error.errors(include_url=False)[0]['msg']}") from error


PackedWeights = Annotated[MeasuredWeights, BeforeValidator(_unpack_weights), PlainSerializer(_pack, when_used="json")]


class InspectedWeights(BaseModel):
    """What a plan is made from, and what it is shown with."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    config: PackedConfig
    """The whole of config.json, for `facts.read_config`."""
    files: int = Field(ge=1, le=2**20)
    """Those of the weights."""
    parameters: int = Field(ge=1, le=2**60)
    """Elements of all tensors; packed weights count as their containers."""
    size_bytes: int = Field(ge=1, le=2**60)
    tensors: PackedWeights | None = None
    """For an architecture that no reader knows: the bytes of its layers. Reports of earlier images have none."""
    dtypes: tuple[Annotated[str, Field(pattern="^[A-Z0-9_]{1,16}$")], ...] = Field(min_length=1, max_length=32)
    """As safetensors spells them, that of the most bytes first."""

    @property
    def summary(self) -> str:
        """The sizes in words."""
        files = "1 file" if self.files == 1 else f"{self.files} files"
        size_gib = f"{self.size_bytes / 2**30:.{1 if self.size_bytes >= 2**30 else 4}f} GiB"
        return f"{files} of {size_gib} hold {self.parameters} parameters in {', '.join(self.dtypes)}"


def write_report(weights: InspectedWeights) -> str:
    """As the termination message has it."""
    return json.dumps(weights.model_dump(mode="json", by_alias=True, exclude_none=True))


def read_report(text: str) -> InspectedWeights:
    """Raises InvalidInput naming the field, the value seen and the value expected."""
    size_bytes = len(text.encode(errors="replace"))
    if size_bytes > LONGEST_REPORT_BYTES:
        raise InvalidInput(f"the report has {size_bytes} bytes, expected at most {LONGEST_REPORT_BYTES}")
    try:
        return InspectedWeights.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        where = f"the report's {field}" if field else "the report"
        raise InvalidInput(f"{where} is {first['input']!r:.80}; expected: {first['msg']}") from error
