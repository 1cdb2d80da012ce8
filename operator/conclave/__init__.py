"""Conclave's pure core: types, catalogue, plan, manifests and status.

No I/O beyond reading the package's own data files, no clock, no Kubernetes client;
imports nothing else of ours.
"""

__version__ = "0.3.0"
