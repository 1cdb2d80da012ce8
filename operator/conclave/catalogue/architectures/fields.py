"""Typed access to a `config.json`: every field is checked where it is read, and an error names it.

Used by the readers only. Bounds are far beyond any model, so that nonsense is refused before it is multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, get_args

from conclave.catalogue.shapes import ENGINE, FloatType
from conclave.errors import InvalidInput, NotPlanned, NotServed

_LARGEST_SIZE = 2**27
_FLOATS = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}


class Fields:
    """A mapping of a config.json, or of one of its nested objects."""

    def __init__(self, values: Mapping[str, object], path: str = "config.json") -> None:
        if not isinstance(values, Mapping):
            raise InvalidInput(f"{path}: expected an object, got {values!r:.80}")
        self._values = values
        self._path = path

    def of_file(self, path: str) -> Fields:
        """The same fields, whose errors name another file."""
        return Fields(self._values, path)

    @property
    def values(self) -> Mapping[str, object]:
        """The mapping itself."""
        return self._values

    @property
    def path(self) -> str:
        """Where it stands, for messages."""
        return self._path

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def mentions(self, name: str) -> bool:
        """Whether the field is there, be it null."""
        return name in self._values

    def field_names(self) -> tuple[str, ...]:
        """The names of all fields, as the file has them."""
        return tuple(map(str, self._values))

    def spelled(self, names: Sequence[str]) -> str:
        """The first of these names that the config has; the first of all where it has none."""
        return next(filter(self.has, names), names[0])

    def of_layer(self, name: str, layer: int, default: int | None = None, *, least: int = 0) -> int:
        """A number for all layers, or a list with one for each; of a list of another length the most."""
        value = self._values.get(name)
        if not isinstance(value, list | tuple):
            return self.size(name, default, least=least)
        sizes = self.sizes(name)
        if not sizes:
            raise self.refuse(name, "a whole number, or one for each layer")
        size = sizes[layer] if layer < len(sizes) else max(sizes)
        if size < least:
            raise self.refuse(name, f"at least {least} in layer {layer}")
        return size

    def refuse(self, name: str, expected: str) -> InvalidInput:
        """The error that says what the field holds and what it should hold."""
        seen = repr(self._values[name])[:80] if name in self._values else "missing"
        return InvalidInput(f"{self._path}: {name:.80} is {seen}; expected {expected}")

    def engine_refuses(self, reason: str) -> NotServed:
        """The error for what is well-formed and what vLLM does not start with; `reason` is vLLM's own."""
        return NotServed(f"{self._path}: {ENGINE} refuses this checkpoint: {reason}")

    def not_planned(self, what: str) -> NotPlanned:
        """The error for what vLLM serves and what the planner cannot size yet."""
        return NotPlanned(f"{self._path}: {ENGINE} serves {what}; this release of Conclave does not plan it yet")

    def size(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number; the field is required without a default."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        expected = f"a whole number from {least} to {_LARGEST_SIZE}"
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST_SIZE:
            raise self.refuse(name, expected)
        return value

    def optional_size(self, name: str) -> int | None:
        """A whole number, or None if the field is missing or null."""
        return self.size(name) if self.has(name) else None

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_SIZE:
            raise self.refuse(name, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.refuse(name, "a string")
        return value

    def is_text(self, name: str) -> bool:
        """Whether the field holds a string, where it may hold something else."""
        return isinstance(self._values.get(name), str)

    def is_list(self, name: str) -> bool:
        """Whether the field holds a list, where it may hold something else."""
        return isinstance(self._values.get(name), list | tuple)

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """One of these words, in any case."""
        value = self.text(name, default).lower()
        if value not in choices:
            raise self.refuse(name, f"one of {', '.join(choices)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if the field is missing."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self.refuse(name, "a list of strings")
        return tuple(value)

    def flat_texts(self, name: str) -> tuple[str, ...]:
        """A list of strings, or of lists of strings, as one list; empty if the field is missing."""
        value = self._values.get(name)
        if not isinstance(value, list | tuple):
            return self.texts(name)
        parts = [Fields({name: part if isinstance(part, list | tuple) else [part]}, self._path) for part in value]
        return tuple(text for part in parts for text in part.texts(name))

    def sizes(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty if the field is missing."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _LARGEST_SIZE for item in value
        ):
            raise self.refuse(name, "a list of whole numbers")
        return tuple(value)

    def nested(self, name: str) -> Fields | None:
        """A nested object, or None if the field is missing."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.refuse(name, "an object")
        return Fields(value, f"{self._path}: {name:.80}")

    def objects(self, name: str) -> tuple[Fields, ...]:
        """The values of a nested object of objects, in order of their keys."""
        nested = self.nested(name)
        return () if nested is None else tuple(f for key in sorted(nested._values) if (f := nested.nested(key)))

    def entries(self, name: str) -> tuple[tuple[str, Fields], ...]:
        """The names and values of a nested object of objects, as the file has them; empty if the field is missing."""
        nested = self.nested(name)
        return () if nested is None else tuple((key, nested.required(key)) for key in nested.field_names())

    def required(self, name: str) -> Fields:
        """A nested object that must be there."""
        nested = self.nested(name)
        if nested is None:
            raise self.refuse(name, "an object")
        return nested

    def divided(self, name: str, by: str) -> int:
        """One field divided by another, which must leave no remainder."""
        value, divisor = self.size(name), self.size(by)
        if value % divisor:
            raise self.refuse(name, f"a multiple of {by} ({divisor})")
        return value // divisor

    def dtype(self) -> FloatType:
        """Type of the unquantized weights; Transformers 5 writes `dtype`, earlier ones `torch_dtype`."""
        name = "dtype" if self.has("dtype") else "torch_dtype"
        value = self.text(name, "bfloat16").removeprefix("torch.")
        value = _FLOATS.get(value, value)
        if value not in get_args(FloatType):
            raise self.refuse(name, "bfloat16, float16 or float32")
        # vLLM serves a float32 checkpoint in 16 bits unless --dtype says otherwise; the plan decides that.
        return cast(FloatType, value)

    def architecture(self) -> str:
        """The first of `architectures`."""
        names = self.texts("architectures")
        if not names:
            raise self.refuse("architectures", "a list with the model's class, for instance ['MixtralForCausalLM']")
        return names[0]
