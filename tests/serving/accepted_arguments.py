"""Program: gives vLLM each engine argument, read as JSON from standard input, and writes those that it refuses.

Started by `test_engine_arguments.py`. The engine's whole configuration is made for each; no engine starts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any


def main() -> None:
    """Argument: a checkpoint. Input: a list of {name: value}. Output: messages by what was refused."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    frontend = {field.name for field in dataclasses.fields(FrontendArgs)}
    refused: dict[str, str] = {}
    for arguments in json.load(sys.stdin):
        try:
            if arguments.keys() <= frontend:
                FrontendArgs(**arguments)
            else:
                settings: dict[str, Any] = {"enforce_eager": True, "max_model_len": 256, **arguments}
                AsyncEngineArgs(model=sys.argv[1], **settings).create_engine_config()
        except (TypeError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            refused[json.dumps(arguments)] = f"{type(error).__name__}: {error}"
    sys.stdout.write(f"\n{json.dumps(refused)}\n")


if __name__ == "__main__":
    main()
