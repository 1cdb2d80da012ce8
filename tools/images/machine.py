"""What a step borrows from this machine and leaves nowhere in an image: mirrors of Debian, certificates, proxies.

Called by `layers`. Debian packages come by this machine's own apt configuration.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

BORROWED = "/mnt"
"""Where a step sees the files below; a file system of its own that no layer gets."""
DEBOOTSTRAP = Path("/usr/sbin/debootstrap")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

_PASSED_ON = re.compile(
    r"(https?|no|all)_proxy|(PIP|UV)_((EXTRA_|DEFAULT_)?INDEX(_URL)?|TRUSTED_HOST|\w*TIMEOUT)", re.I
)
_TARGET = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)"


class MachineUnfit(Exception):
    """This machine lacks what a build without a container engine needs; the message says what to do."""


def prepare() -> None:
    """Installs debootstrap where it is missing; raises MachineUnfit where nothing can be built."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").is_file():
        raise MachineUnfit(
            "a build without a container engine needs root on Debian; "
            "with one: docker build -f images/Dockerfile --target TARGET ."
        )
    if not DEBOOTSTRAP.exists():
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-qy", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
        subprocess.run(["apt-get", "update", "-q"], stdout=sys.stderr, env=quiet)
        subprocess.run([*install, "debootstrap"], stdout=sys.stderr, env=quiet)
    if not DEBOOTSTRAP.exists():
        raise MachineUnfit(f"{DEBOOTSTRAP} is missing and could not be installed: apt-get install debootstrap")


def debian_sources(suite: str) -> list[tuple[str, str, str]]:
    """URI, suite and component of each of this machine's Debian repositories, for `suite` in place of its own."""
    command = ["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sources_of(listed.splitlines(), suite)


def sources_of(targets: Iterable[str], suite: str) -> list[tuple[str, str, str]]:
    """The archive itself first; raises MachineUnfit where apt knows none."""
    debian = [fields[1:] for fields in (line.split("|") for line in targets) if fields[0] == "Debian"]
    if not debian:
        raise MachineUnfit("apt knows no repository of Debian's here; expected at least one: apt-get update")
    own = min((codename for codename, _, _ in debian), key=len)
    found = {(uri, codename.replace(own, suite, 1), component) for codename, uri, component in debian}
    return sorted(found, key=lambda source: (source[1] != suite, source))


def write_borrowed(directory: Path, suite: str) -> None:
    """The files that a step finds below BORROWED."""
    directory.mkdir()
    lines = [f"deb {uri} {name} {component}" for uri, name, component in debian_sources(suite)]
    (directory / "sources.list").write_text("\n".join(lines) + "\n")
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    proxies = [line for line in dump.splitlines() if re.match(r"Acquire::https?::proxy", line, re.I)]
    settings = [f'Dir::Etc::sourcelist "{BORROWED}/sources.list";', *proxies]
    (directory / "apt.conf").write_text("\n".join(settings) + "\n")
    certificates = Path(os.environ.get("SSL_CERT_FILE", CERTIFICATES))
    if certificates.is_file():
        (directory / "certificates.crt").write_bytes(certificates.read_bytes())


def borrowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of this machine's variables, those that say how the network is reached."""
    certificates = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), f"{BORROWED}/certificates.crt")
    passed_on = {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}
    return {"APT_CONFIG": f"{BORROWED}/apt.conf", **certificates, **passed_on}
