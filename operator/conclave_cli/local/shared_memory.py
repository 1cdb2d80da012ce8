"""Which files of /dev/shm the processes of a run made, so that none stays behind however these processes ended.

Used by `ray_head`. Nothing in a file of /dev/shm tells whose it is once the process that made it is gone: the files are
looked at while they are being made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX puts it
SEMAPHORE = "sem."
"""How the C library names the files of semaphores. Processes map these files and do not hold them open."""
TIMEOUT_S = 10.0


class SharedMemoryWatch:
    """Notes each file that one of these processes holds open, and each semaphore, at the moment when it appears.

    An engine that fails kills its processes, resource trackers included: to look from time to time finds nothing.
    """

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        """Returns when the kernel reports what appears."""
        self._processes = processes
        self.found: frozenset[Path] = frozenset()
        """Of which some may be gone again."""
        self._ended, self._begun = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._note, name="shared-memory", daemon=True)
        self._thread.start()
        self._begun.wait(TIMEOUT_S)

    def _note(self) -> None:
        from watchfiles import watch  # comes with Ray Serve, which the commands for a cluster do without

        for changes in watch(
            SHARED_MEMORY,
            watch_filter=None,
            debounce=1,
            step=1,
            stop_event=self._ended,
            rust_timeout=50,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        ):
            self._begun.set()
            if changes:
                self.found |= opened_shared_memory(self._processes())
            if any(Path(path).name.startswith(SEMAPHORE) for _, path in changes):
                self.found |= shared_memory_files(self._processes())

    def end(self) -> None:
        """Nothing is noted any more."""
        self._ended.set()
        self._thread.join(TIMEOUT_S)


def shared_memory_files(process_ids: Iterable[int]) -> frozenset[Path]:
    """Files of /dev/shm that these processes map: an engine that is killed leaves them behind.

    Told by inode: a semaphore is mapped under a temporary name, and linked to its own name afterwards.
    """
    inodes = set()
    for process_id in process_ids:
        try:
            maps = Path(f"/proc/{process_id}/maps").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        inodes |= {int(line.split()[4]) for line in maps.splitlines() if " /dev/shm/" in line}
    with os.scandir(SHARED_MEMORY) as entries:
        return frozenset(Path(entry.path) for entry in entries if entry.inode() in inodes)


def opened_shared_memory(process_ids: Iterable[int]) -> frozenset[Path]:
    """Files of /dev/shm that these processes hold open; cheaper than `shared_memory_files`, and blind to semaphores."""
    found = set()
    for process_id in process_ids:
        try:
            with os.scandir(f"/proc/{process_id}/fd") as entries:
                names = [entry.path for entry in entries]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for name in names:
            try:
                target = Path(name).readlink()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if target.parent == SHARED_MEMORY and not target.name.endswith(" (deleted)"):
                found.add(target)
    return frozenset(found)
