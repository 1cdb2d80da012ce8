"""`python -m tools.images TARGET...`: builds images into the cache without a container engine; `make images` runs it.

Prints for each target its reference and the tar to import, and each directory that was kept apart.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tools.build_tools import cache_dir
from tools.images.build import Builder
from tools.images.dockerfile import DockerfileError
from tools.images.layers import StepFailed, say
from tools.images.machine import MachineUnfit, prepare

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("images/Dockerfile", "e2e/Dockerfile")
"""Read as one text: the second has only stages over the first's."""


def references(version: str) -> Mapping[str, str]:
    """By target, as the chart's values name them."""
    return {
        "operator": f"conclave/operator:{version}",
        "serving": f"conclave/serving:{version}",
        "serving-cpu": f"conclave/serving:{version}-cpu",
        "serving-e2e": "conclave/serving:e2e",
    }


def project_version() -> str:
    """Of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert isinstance(version, str)
    return version


def builder(apart: tuple[str, ...] = (), root: Path = ROOT) -> Builder:
    """Of the Dockerfiles of this project, or of a former tree of it; raises MachineUnfit where nothing can be built."""
    prepare()
    text = "\n".join((root / path).read_text() for path in DOCKERFILES)
    return Builder(text, root, cache_dir() / "images", apart)


def main() -> int:
    targets = references(project_version())
    parser = argparse.ArgumentParser(prog="python -m tools.images", description=__doc__)
    parser.add_argument("targets", nargs="+", metavar="TARGET", choices=list(targets), help=", ".join(targets))
    parser.add_argument(
        "--apart",
        action="append",
        default=[],
        metavar="PATH",
        help="leave this directory of the image (/opt/environment) out and print where it lies, to be mounted",
    )
    parser.add_argument("--run", metavar="COMMAND", help="run this in each image instead of writing archives")
    parser.add_argument(
        "--prune",
        type=float,
        metavar="DAYS",
        help="then remove from the cache what no build has asked for in that time",
    )
    options = parser.parse_args()
    start = time.monotonic()
    try:
        build = builder(tuple(options.apart))
        for target in options.targets:
            image = build.image(target)
            if options.run is not None:
                code = build.run(image, ["/bin/bash", "-c", options.run])
                if code:
                    say(f"{target}: `{options.run}` exited {code}")
                    return code
                continue
            print(targets[target], build.archive(image, target, targets[target]), flush=True)
            for path, directory in image.apart.items():
                print(path, directory, flush=True)
        if options.prune is not None:
            build.prune(time.time() - options.prune * 86_400)
    except (DockerfileError, MachineUnfit, StepFailed) as error:
        say(str(error))
        return 1
    say(f"done in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
