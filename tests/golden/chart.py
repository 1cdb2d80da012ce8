"""What helm renders of the chart for each platform, kept as differences to what it renders by default.

A platform is a file of values in charts/conclave/platforms, and a case of the same name here. tests/integration
compares what is kept with what the real helm renders; the golden cases read the operator's settings from what is kept.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.golden.differences import BASE, CHART, GOLDEN, base_path, differences, items, whole
from tools.build_tools import program

_CHART = Path(__file__).parents[2] / "charts" / "conclave"
PLATFORMS = sorted((_CHART / "platforms").glob("*.yaml"))
PLATFORM_CASES = [GOLDEN / path.stem for path in PLATFORMS]
CRD = "CustomResourceDefinition"
"""Generated, and compared elsewhere."""


def settings_of(case: Path) -> Any:
    """The operator's settings of a platform, as its ConfigMap has them."""
    (config,) = (item for item in whole(case, "chart")["install"] if item["kind"] == "ConfigMap")
    return yaml.safe_load(config["data"]["operator.yaml"])


def rewrite_charts() -> None:
    """The bases, and each platform's differences to them."""
    bases = {base_path(item): item.text for item in items("chart", _rendered(), "")}
    for path in {*BASE.glob(f"{CHART}*.yaml")} - {*bases}:
        path.unlink()
    for path, text in bases.items():
        path.write_text(text, encoding="utf-8")
    for values, case in zip(PLATFORMS, PLATFORM_CASES, strict=True):
        made = items("chart", _rendered(f"--values={values}"), "")
        (case / "chart.diff").write_text(differences(made, bases), encoding="utf-8")


def _rendered(*options: str) -> dict[str, list[Any]]:
    command = [program("helm"), "template", "conclave", _CHART, "--namespace=conclave-system", *options]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"install": [item for item in yaml.safe_load_all(text) if item and item["kind"] != CRD]}
