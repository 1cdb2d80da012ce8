"""The Ray Serve application of a model.

Importing this package sets VLLM_PLUGINS to the one plugin that vLLM may load: Serve builds the application in a process
that imports vLLM and does not have the environment of our pods.
"""

import os

from conclave_serving.environment import CLOSED_ENVIRONMENT

os.environ["VLLM_PLUGINS"] = CLOSED_ENVIRONMENT["VLLM_PLUGINS"]
