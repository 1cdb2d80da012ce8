"""The facts that a plan needs from a model's files. The files are checked first, as before a start; nothing is loaded.

`python -m conclave_weights inspect` calls it: the operator's inspection Job for a model that is not in the catalogue.
Messages name files as the source has them, without the directory in the pod.
"""

from __future__ import annotations

import json
from pathlib import Path

from conclave.catalogue.facts import ModelFacts, read_config
from conclave.catalogue.inspected import LONGEST_CONFIG_BYTES, InspectedWeights, write_report
from conclave.catalogue.measured import MeasuredWeights, measure
from conclave.catalogue.quantization_file import QUANTIZATION_FILE, with_quantization
from conclave.errors import ANOTHER_CHECKPOINT, InvalidInput, NotServed, UnknownModel
from conclave_weights.errors import ArchitectureUnknown, ConfigInvalid, ConfigMissing, WeightsUnfit, WeightsUnreadable
from conclave_weights.files.headers import DTYPE_BITS
from conclave_weights.files.regular_files import open_to_read
from conclave_weights.inspection.directory import Inspection, inspect_weights
from conclave_weights.inspection.engine_config import config_faults

CONFIG_NAME = "config.json"
_SHOWN_NAMES = 5
_SHOWN_PROBLEMS = 3
_OWN = "or give the model's config.json in spec.model.configRef"


def plan_facts(root: Path, longest_bytes: int) -> InspectedWeights:
    """Raises WeightsUnfit; a subclass says what is wrong with config.json."""
    try:
        config = _read_config(root)
        model = _check_config(config)
        inspection = inspect_weights(root)
    except OSError as error:
        raise WeightsUnreadable(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    problems = [problem.replace(f"{root}/", "") for problem in inspection.problems]
    problems += [
        f"tensors of type {name!r:.40}, expected one of {', '.join(DTYPE_BITS)}"
        for name in sorted(inspection.dtypes.keys() - DTYPE_BITS.keys())[:1]
    ]
    if problems:
        more = f"; {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise WeightsUnfit("; ".join(problems[:_SHOWN_PROBLEMS]) + more)
    total = inspection.total
    facts = InspectedWeights(
        config=config,
        files=inspection.shards,
        parameters=total.parameters,
        size_bytes=total.size_bytes,
        tensors=_measured(inspection, model),
        dtypes=tuple(sorted(inspection.dtypes, key=lambda name: -inspection.dtypes[name].size_bytes)),
    )
    report_bytes = len(write_report(facts).encode())
    if report_bytes > longest_bytes:
        raise ConfigInvalid(
            f"{CONFIG_NAME}: compressed, the report has {report_bytes} bytes, and a pod can report at most "
            f"{longest_bytes}; give the config.json in spec.model.configRef"
        )
    return facts


def _read_config(root: Path) -> dict[str, object]:
    if not (root / CONFIG_NAME).exists():
        raise ConfigMissing(f"no {CONFIG_NAME}, expected one beside the weights; the directory holds {_listed(root)}")
    config = _read_object(root / CONFIG_NAME)
    if (root / QUANTIZATION_FILE).exists():
        config = with_quantization(config, _read_object(root / QUANTIZATION_FILE))
    return config


def _read_object(path: Path) -> dict[str, object]:
    name = path.name
    if not path.is_file():
        raise ConfigInvalid(f"{name}: is not a file; copy the model's {name} there, {_OWN}")
    with open_to_read(path) as file:
        text = file.read(LONGEST_CONFIG_BYTES + 1)
    if len(text) > LONGEST_CONFIG_BYTES:
        raise ConfigInvalid(f"{name}: has more than {LONGEST_CONFIG_BYTES} bytes, which no model needs; copy it again")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{name}: is not valid JSON: {error}; copy it again, {_OWN}") from error
    if not isinstance(content, dict):
        raise ConfigInvalid(f"{name}: has a JSON {type(content).__name__}, expected an object; copy it again")
    return content


def _check_config(config: dict[str, object]) -> ModelFacts:
    try:
        facts = read_config(config)
    except UnknownModel as error:
        raise ArchitectureUnknown(f"{error}; use a model that the engine serves") from error
    except NotServed as error:
        raise ArchitectureUnknown(f"{error}; {ANOTHER_CHECKPOINT}") from error
    except InvalidInput as error:
        raise ConfigInvalid(f"{error}; correct it, {_OWN}") from error
    architectures = config["architectures"]
    named = str(architectures[0]) if isinstance(architectures, list) else facts.architecture
    if faults := list(config_faults(named, config)):
        raise ConfigInvalid("; ".join(faults))
    return facts


def _measured(inspection: Inspection, model: ModelFacts) -> MeasuredWeights | None:
    """What the headers tell beyond config.json, where no reader knows the architecture."""
    if model.evidence is None:
        return None
    return measure(inspection.tensors, len(model.layers))


def _listed(root: Path) -> str:
    found = sorted(path.name for path in root.iterdir())
    more = f" and {len(found) - _SHOWN_NAMES} more" if len(found) > _SHOWN_NAMES else ""
    return ", ".join(found[:_SHOWN_NAMES]) + more if found else "nothing"
