"""`python -m conclave_weights verify --digest sha256:... PATH`: the init container of a model's pods.

Standard library only on the way, one line on stderr where it fails, and the exit code of the error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conclave_weights.digest import verify
from conclave_weights.errors import WeightsUnfit
from conclave_weights.soundness import check_weights


def main() -> int:
    parser = argparse.ArgumentParser(prog="conclave_weights")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="check that the weights are whole and are those of the digest")
    command.add_argument("--digest", required=True)
    command.add_argument("path", type=Path)
    arguments = parser.parse_args()
    try:
        check_weights(arguments.path)
        files = verify(arguments.path, arguments.digest)
    except WeightsUnfit as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.path}: {len(files)} files, {sum(file.size_bytes for file in files)} bytes: {arguments.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
