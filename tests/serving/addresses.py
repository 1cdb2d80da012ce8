"""On which addresses processes listen, as the kernel has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

LISTEN = "0A"


class Address(NamedTuple):
    host: IPv4Address | IPv6Address
    port: int


def listening_addresses(process_ids: Iterable[int]) -> Iterator[Address]:
    """TCP sockets of these processes that take connections."""
    inodes = set()
    for process_id in process_ids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for descriptor in Path(f"/proc/{process_id}/fd").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    kind, _, inode = str(descriptor.readlink()).partition(":")
                    if kind == "socket":
                        inodes.add(inode.strip("[]"))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTEN and columns[9] in inodes:
                host, _, port = columns[1].partition(":")
                yield Address(_host(host), int(port, 16))


def _host(hexadecimal: str) -> IPv4Address | IPv6Address:
    """Words of four bytes, each with its bytes in the order of this machine (little-endian)."""
    words = [bytes.fromhex(hexadecimal[start : start + 8])[::-1] for start in range(0, len(hexadecimal), 8)]
    packed = b"".join(words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
