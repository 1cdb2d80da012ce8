"""When files that were found unfit are looked at and read again, on a clock of the test's own."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from conclave_weights.errors import WeightsUnfit
from conclave_weights.verify.awaiting import await_all, look, verify_or_note
from conclave_weights.verify.digest import digest_of, hash_files

Change = Callable[[Path], object]


def weights(root: Path) -> tuple[Path, str]:
    """A model of one shard and its digest."""
    root.mkdir()
    (root / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    (root / "tokenizer.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (root / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return root, digest_of(hash_files(root))


def damage(root: Path) -> None:
    with (root / "model.safetensors").open("r+b") as shard:
        shard.seek(-1, os.SEEK_END)
        shard.write(b"5")


def mend(root: Path) -> None:
    with (root / "model.safetensors").open("r+b") as shard:
        shard.seek(-1, os.SEEK_END)
        shard.write(b"4")


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")


def note_unfit(root: Path, digest: str, notes: Path) -> None:
    with pytest.raises(WeightsUnfit):
        verify_or_note(root, digest, notes)


class Clock:
    """Time passes in sleep only, and something happens at some seconds of it."""

    def __init__(self, happens: Mapping[float, Callable[[], object]]) -> None:
        self.now_s = 0.0
        self.told: list[tuple[float, str]] = []
        self._happens = dict(happens)

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        for at_s in [at_s for at_s in self._happens if at_s <= self.now_s]:
            self._happens.pop(at_s)()

    def wait(self, notes: Path) -> None:
        await_all(notes, lambda line: self.told.append((self.now_s, line)), sleep=self.sleep, now_s=lambda: self.now_s)

    def at(self, words: str) -> list[float]:
        return [at_s for at_s, line in self.told if words in line]


def test_files_are_read_at_the_second_look_that_finds_them_changed_and_still(tmp_path: Path) -> None:
    root, digest = weights(tmp_path / "model")
    damage(root)
    notes = tmp_path / "notes"
    note_unfit(root, digest, notes)
    clock = Clock({95: lambda: mend(root)})
    clock.wait(notes)
    assert (clock.at("change"), clock.at("reading"), clock.at("correct")) == ([100], [110], [110])


def test_files_that_keep_changing_are_not_read_before_their_time(tmp_path: Path) -> None:
    root, digest = weights(tmp_path / "model")
    damage(root)
    notes = tmp_path / "notes"
    note_unfit(root, digest, notes)

    def finish() -> None:
        (root / "new").unlink()
        mend(root)

    grow = partial(append, root / "new")
    clock = Clock({**dict.fromkeys(range(5, 705, 10), grow), 706: finish})
    clock.wait(notes)
    assert clock.at("reading") == [600, 710 + 10]


def test_files_that_do_not_seem_to_change_are_read_every_ten_minutes(tmp_path: Path) -> None:
    """As on a network file system that shows neither sizes nor times of others' writes."""
    root, digest = weights(tmp_path / "model")
    damage(root)
    notes = tmp_path / "notes"
    note_unfit(root, digest, notes)
    mend(root)
    (note,) = json.loads(notes.read_text()).values()
    notes.write_text(json.dumps({str(root): [note[0], look(root)]}))
    clock = Clock({})
    clock.wait(notes)
    assert (clock.at("change"), clock.at("reading"), clock.at("correct")) == ([], [600], [600])


def test_what_was_mended_while_it_was_verified_is_seen(tmp_path: Path) -> None:
    root, digest = weights(tmp_path / "model")
    damage(root)
    notes = tmp_path / "notes"
    note_unfit(root, digest, notes)
    mend(root)
    clock = Clock({})
    clock.wait(notes)
    assert clock.at("correct") == [20]


def test_all_that_was_noted_is_awaited(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    roots = []
    for name in ("model", "adapter"):
        root, digest = weights(tmp_path / name)
        damage(root)
        note_unfit(root, digest, notes)
        roots.append(root)
    clock = Clock({5: lambda: mend(roots[1]), 105: lambda: mend(roots[0])})
    clock.wait(notes)
    assert clock.at("correct") == [120, 140]


def damage_under_the_old_time(root: Path) -> None:
    before = (root / "model.safetensors").stat()
    damage(root)
    os.utime(root / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(root: Path) -> None:
    (root / "copy").write_bytes((root / "config.json").read_bytes())
    (root / "copy").rename(root / "config.json")


def lead_elsewhere(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("b")


CHANGES: dict[str, Change] = {
    "a byte": damage,
    "a byte under the old time": damage_under_the_old_time,
    "a right": lambda root: (root / "config.json").chmod(0o400),
    "a new file": lambda root: (root / "new").touch(),
    "a new file in a directory": lambda root: (root / "sub" / "new").touch(),
    "a name": lambda root: (root / "config.json").rename(root / "config"),
    "a file that took another one's name": replace,
    "where a link leads": lead_elsewhere,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_look_sees(tmp_path: Path, change: Change) -> None:
    root, _ = weights(tmp_path / "model")
    (root / "sub").mkdir()
    (root / "link").symlink_to("a")
    before = look(root)
    assert look(root) == before
    change(root)
    assert look(root) != before
