"""Regenerates every generated file from its one source: `make verify` runs it and fails on a difference.

A generated file is a path below the repository and a function that gives its text; nothing here depends on time,
order of directories or environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # tools/ is no package of the distribution

from tools.models_page import models_page  # noqa: E402
from tools.published_starts import accuracy_page  # noqa: E402
from tools.reference import engine_arguments_page, model_deployment_page  # noqa: E402
from tools.request_limits_page import request_limits_page  # noqa: E402

from conclave.api.crd import make_crd  # noqa: E402
from conclave.api.group import GROUP  # noqa: E402
from conclave.api.kind import Kind  # noqa: E402
from conclave.api.kinds import KINDS  # noqa: E402
from conclave.api.modeldeployment import MODEL_DEPLOYMENT  # noqa: E402
from conclave.policy.arguments import admission_rules  # noqa: E402

POLICY = {MODEL_DEPLOYMENT.name: admission_rules}
"""Rules that come from `conclave.policy`, by kind."""


def crd_text(kind: Kind) -> str:
    """The CRD of a kind as YAML."""
    further = POLICY.get(kind.name, dict)()
    body = yaml.safe_dump(make_crd(kind, further), sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from operator/conclave/api by tools/generate.py.\n{body}"


CRD_DIRECTORY = "charts/conclave/files/crds"
"""The only copy: the chart's template and everybody else read it here (docs/adr/0019)."""
GENERATED: Mapping[str, Callable[[], str]] = {
    **{f"{CRD_DIRECTORY}/{GROUP}_{kind.plural}.yaml": partial(crd_text, kind) for kind in KINDS},
    "docs/modeldeployment.md": model_deployment_page,
    "docs/engine-arguments.md": engine_arguments_page,
    "docs/request-limits.md": request_limits_page,
    "docs/plan-accuracy.md": accuracy_page,
    "docs/models.md": models_page,
}


def generate(root: Path = ROOT) -> None:
    """Write every generated file below `root`."""
    for path, text in GENERATED.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    generate()
