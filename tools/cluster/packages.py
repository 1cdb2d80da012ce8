"""What the cluster needs of the machine: Linux, root, a few Debian packages. Installed where it is root on Debian."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.cluster.configs import CNI_PLUGINS
from tools.cluster.layout import ClusterError

PACKAGES = {
    "runc": "runc",
    "containernetworking-plugins": str(CNI_PLUGINS / "bridge"),
    "iptables": "iptables",
    "ipset": "ipset",
    "iproute2": "ip",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
}
"""Each with the program or the file that shows it."""


def require_machine() -> None:
    """Raises ClusterError where this is no Linux, or not root, or something lacks that cannot be installed here."""
    if sys.platform != "linux":
        raise ClusterError(
            f"the cluster runs on Linux only, this is {sys.platform}; `make e2e` takes a KUBECONFIG instead"
        )
    if os.geteuid() != 0:
        raise ClusterError("the cluster needs root (network, mounts, cgroups): sudo -E make cluster")
    wanted = missing()
    if wanted and Path("/etc/debian_version").is_file():
        print(f"cluster: installing Debian packages: {' '.join(wanted)}", file=sys.stderr, flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], stdout=sys.stderr, env=quiet)
        subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", *wanted], stdout=sys.stderr, env=quiet)
        wanted = missing()
    if wanted:
        raise ClusterError(
            f"this machine lacks: {' '.join(wanted)}\n  on Debian or Ubuntu: sudo apt-get install {' '.join(wanted)}"
        )


def missing() -> list[str]:
    return [package for package, sign in PACKAGES.items() if not (shutil.which(sign) or Path(sign).is_file())]
