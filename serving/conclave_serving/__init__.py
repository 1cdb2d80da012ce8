"""The Ray Serve application of a model.

Importing it names the one plugin that vLLM may load. Serve builds the application in a process of its own, which has no
environment of ours and imports vLLM.
"""

import os

from conclave_serving.environment import CLOSED_ENVIRONMENT

os.environ["VLLM_PLUGINS"] = CLOSED_ENVIRONMENT["VLLM_PLUGINS"]
