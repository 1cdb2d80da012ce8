"""Program: prints the objects and the status of a golden case whole, as YAML.

python -m tests.golden CASE [objects|status|chart|download]
"""

from __future__ import annotations

import sys

from tests.golden.differences import GOLDEN, text_of, whole


def main() -> None:
    cases = sorted(path.parent.name for path in GOLDEN.glob("*/input.yaml"))
    case, *parts = sys.argv[1:] or [""]
    if case not in cases:
        sys.exit(f"case {case!r}: unknown; the cases are {', '.join(cases)}")
    for part in parts or ("chart", "download", "objects", "status"):
        if (GOLDEN / case / f"{part}.diff").is_file():
            print(f"# {part} of {case}\n{text_of(whole(GOLDEN / case, part))}", end="")


if __name__ == "__main__":
    main()
