"""Which files of a hub's repository are downloaded where nobody says so: what an engine or a conversion reads.

Pure: names in, names out.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from conclave_weights.verify.soundness import BESIDE_PATTERNS, find_pickled

_SAFETENSORS = "*.safetensors"
_SECOND_COPY = "consolidated*.safetensors"
"""Mistral's own layout of the weights, beside the same weights in the hub's layout."""
_GROK_1 = ("tensor?????_???", "ckpt-0/tensor?????_???")


def choose_files(paths: Iterable[str]) -> tuple[str, ...]:
    """Safetensors of the top directory and what lies beside them: config, tokenizer, template, licence. No code.

    Pickled weights are chosen only where there are no safetensors: `conclave weights convert` reads them. Nothing is
    chosen where there are no weights at all.
    """
    given = list(paths)
    top = [path for path in given if "/" not in path]
    weights = _matching(top, (_SAFETENSORS,))
    if others := [path for path in weights if not fnmatchcase(path, _SECOND_COPY)]:
        weights = others
    weights = weights or list(pickled_weights(given))
    return tuple(sorted({*weights, *_matching(top, BESIDE_PATTERNS)})) if weights else ()


def pickled_weights(paths: Iterable[str]) -> tuple[str, ...]:
    """The files that a conversion would read, of PyTorch or of Grok-1; none beside safetensors."""
    given = list(paths)
    top = [path for path in given if "/" not in path]
    if _matching(top, (_SAFETENSORS,)):
        return ()
    return find_pickled(top) or tuple(_matching(given, _GROK_1))


def _matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    wanted = tuple(patterns)
    return [path for path in paths if any(fnmatchcase(path, pattern) for pattern in wanted)]
