"""`conclave weights`: contents, completeness, digest, download and conversion of weights."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from conclave.api.formats import FilePattern, HubEndpoint, RegionName, StoreEndpoint
from conclave.api.rules import Format
from conclave.errors import InvalidInput
from conclave.visible_text import one_line
from conclave_cli.terminal import progress_bar, say, say_data
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.regular_files import check_directory
from conclave_weights.inspection.directory import DtypeSum, Inspection, inspect_weights
from conclave_weights.verify.adapter import is_adapter
from conclave_weights.verify.digest import (
    WeightsFile,
    digest_of,
    hash_files,
    list_files,
    read_manifest,
    verify,
    write_manifest,
)
from conclave_weights.verify.soundness import check_weights

if TYPE_CHECKING:
    from conclave_weights.convert.conversion import ConversionPlan
    from conclave_weights.transfer.source import Source

app = typer.Typer(
    name="weights",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Inspect, digest, verify, download and convert the weights of a model.",
)

WeightsPath = Annotated[Path, typer.Argument(metavar="PATH", help="Directory of the weights.")]
_LONG_WORK_BYTES = 2**30
"""From here on a pipe, too, is told how far the work is: ten lines."""


class Output(StrEnum):
    """Formats of the answer."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


@app.command()
def inspect(
    path: WeightsPath,
    output: Annotated[Output, typer.Option("--output", "-o", help="Format of the answer.")] = Output.TEXT,
) -> None:
    """Show what the weights contain, and all problems with them; reads headers only.

    Exits 0 if the weights are valid (notes do not count), and 4 if there is a problem.
    """
    inspection = inspect_weights(path)
    if output is Output.TEXT:
        for line in _inspection_lines(inspection):
            say(one_line(line))
    else:
        say_data(_inspection_data(inspection), output)
    if inspection.problems:
        raise typer.Exit(WeightsUnfit.exit_code)


def _inspection_data(inspection: Inspection) -> dict[str, object]:
    return {
        "sound": not inspection.problems,
        "path": inspection.path,
        "architecture": inspection.architecture,
        "configDtype": inspection.config_dtype,
        "comparedWith": inspection.compared_with,
        "shards": inspection.shards,
        **_sums(inspection.total),
        "dtypes": {dtype: _sums(part) for dtype, part in sorted(inspection.dtypes.items())},
        "problems": inspection.problems,
        "notes": inspection.notes,
    }


def _sums(part: DtypeSum) -> dict[str, int]:
    return {"tensors": part.tensors, "parameters": part.parameters, "bytes": part.size_bytes}


def _inspection_lines(inspection: Inspection) -> Iterator[str]:
    yield f"weights       {inspection.path}"
    yield f"architecture  {inspection.architecture or 'unknown'}"
    yield f"stored        {_amount(inspection.total)} in {inspection.shards} safetensors files"
    if len(inspection.dtypes) > 1:
        for dtype, part in sorted(inspection.dtypes.items()):
            yield f"  {dtype:<12}{_amount(part)}"
    else:
        yield f"type          {', '.join(inspection.dtypes) or 'none'}"
    yield f"compared with {inspection.compared_with}"
    for kind, sentences in (("problem", inspection.problems), ("note", inspection.notes)):
        yield from (f"{kind:<14}{sentence}" for sentence in sentences)
    yield "unsound" if inspection.problems else "sound"


def _amount(part: DtypeSum) -> str:
    return f"{part.tensors} tensors, {part.parameters:,} parameters, {part.size_bytes / 2**30:.2f} GiB"


@app.command()
def digest(
    path: WeightsPath,
    manifest: Annotated[Path | None, typer.Option(help="Also write each file's hash and size to this file.")] = None,
) -> None:
    """Print the digest of the weights, for spec.model.digest. Exits 4 if the weights are damaged."""
    if manifest is not None and manifest.resolve().is_relative_to(path.resolve()):
        raise InvalidInput(
            f"--manifest {manifest}: is inside the directory of the weights, and would count as one "
            "of its files; choose a path outside"
        )
    _check_weights(path)
    with _progress("hashing", _size_bytes(path)) as on_progress:
        files = hash_files(path, on_progress=on_progress)
    if manifest is not None:
        _write_whole(manifest, write_manifest(files))
    say(digest_of(files))


@app.command(name="verify")
def verify_command(
    path: WeightsPath,
    digest: Annotated[str | None, typer.Option(help="The digest that the weights must have.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="File that `digest --manifest` wrote; with it the answer says which file differs, and how."),
    ] = None,
) -> None:
    """Check that the weights are complete and match a digest, a manifest, or both.

    Exits 4 if not: a file is corrupt, truncated, exchanged with another, renamed, missing, extra or a link.
    """
    if digest is None and manifest is None:
        raise InvalidInput("give --digest sha256:..., or --manifest FILE, or both")
    _check_digest(digest)
    expected = None if manifest is None else _read_manifest(manifest)
    if expected is None:
        _check_weights(path)
    with _progress("hashing", _size_bytes(path)) as on_progress:
        files = verify(path, digest, manifest=expected, on_progress=on_progress)
    _check_weights(path)
    say(f"{path}: {len(files)} files, {sum(file.size_bytes for file in files)} bytes: {digest_of(files)}")


@app.command(name="download")
def download_command(
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/path or hf://ORGANISATION/NAME@COMMIT.")],
    target: Annotated[Path, typer.Argument(metavar="PATH", help="Directory to create.")],
    endpoint: Annotated[
        str, typer.Option(help="URL of the store, by default Amazon's; or of a mirror of the hub.")
    ] = "",
    region: Annotated[str, typer.Option(help="Region of the bucket; us-east-1 by default.")] = "",
    include: Annotated[
        list[str] | None,
        typer.Option(help="Of a hub: which files, as a pattern; may be repeated. By default what an engine reads."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Of a hub: which files not, as a pattern; may be repeated.")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="The digest that the weights must have.")] = None,
) -> None:
    """Download weights from an object store that speaks S3, or from the Hugging Face hub or a mirror.

    Writes to PATH.partial, which becomes PATH when all files are complete and compared. After an interruption, the
    same command continues. The credentials come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if
    they are temporary, AWS_SESSION_TOKEN; of a hub HF_TOKEN, if the repository is gated or private. Exits 4 if the
    store, the hub or the disk fails, or if the weights do not match the digest or the hub's hashes.
    """
    from conclave_weights.transfer.download import download

    _check_digest(digest)
    source = _source(uri, endpoint, region, include or [], exclude or [])
    with ExitStack() as stack:
        advance: list[Callable[[int], None]] = []

        def begin(total_bytes: int, done_bytes: int) -> None:
            advance.append(stack.enter_context(_progress("downloading", total_bytes)))
            advance[0](done_bytes)

        done = download(
            source, target, digest, on_listed=begin, on_progress=lambda count_bytes: advance[0](count_bytes)
        )
    for note in done.notes:
        say(f"note: {note}", err=True)
    say(f"{target}: {done.total_bytes} bytes, {done.fetched_bytes} of them fetched now")


def _source(uri: str, endpoint: str, region: str, include: list[str], exclude: list[str]) -> Source:
    """An option of the other kind of source is refused: it would change nothing."""
    if uri.startswith("hf:"):
        from conclave_weights.transfer.hub import Hub

        if region:
            raise InvalidInput(f"--region {region}: a hub has no regions; leave it out")
        _check_option("--endpoint", endpoint.rstrip("/"), HubEndpoint)
        for option, patterns in (("--include", include), ("--exclude", exclude)):
            for pattern in patterns:
                _check_option(option, pattern, FilePattern)
        return Hub(uri, endpoint=endpoint, include=include, exclude=exclude)
    from conclave_weights.transfer.object_store import ObjectStore

    if include or exclude:
        raise InvalidInput("--include and --exclude are for hf:// addresses; an object store's prefix is whole")
    _check_option("--endpoint", endpoint, StoreEndpoint)
    _check_option("--region", region, RegionName)
    return ObjectStore(uri, endpoint=endpoint, region=region)


class TargetDtype(StrEnum):
    """Types of the converted matrices."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Directory of the pickled weights.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Directory to create.")],
    dtype: Annotated[
        TargetDtype | None,
        typer.Option(help="Type of Grok-1's matrices, bfloat16 by default. Other weights keep their type."),
    ] = None,
    shard_gb: Annotated[int, typer.Option(min=1, help="Largest file of the target, in 10^9 bytes.")] = 5,
) -> None:
    """Convert pickled weights to safetensors, without running the pickles. Needs NumPy, and no torch.

    SOURCE is a model or adapter as PyTorch saved it (pytorch_model*.bin, *.pt; from 1.6 on), or Grok-1 as xAI released
    it (ckpt-0: JAX, int8 with scales), which becomes the Hugging Face layout.
    Writes to TARGET.partial, which becomes TARGET when it is complete. After an interruption, the same command
    continues. Exits 4 if the files are damaged or contain anything but plain tensors.
    Grok-1's layout follows the public code and the published sizes of the files. The conversion never ran on the 300 GB
    release itself: compare a few answers before you rely on the result.
    """
    from conclave_weights.convert.plan import plan_conversion

    carry_out(plan_conversion(source, target, dtype=dtype, shard_bytes=shard_gb * 10**9))


def carry_out(plan: ConversionPlan) -> None:
    """Carry out the plan, and print the progress."""
    from conclave_weights.convert import conversion

    with _progress("converting", plan.size_bytes) as on_progress:
        outcome = conversion.convert(plan, on_progress)
    kept = f", {outcome.kept_shards} of them kept from before" if outcome.kept_shards else ""
    say(f"{plan.target}: {outcome.shards} files, {outcome.size_bytes} bytes{kept}")
    if not plan.is_complete:
        say(f"the source has no tokenizer: copy the model's tokenizer files into {plan.target}", err=True)


def _check_weights(path: Path) -> None:
    """The first fault; another command lists all."""
    check_directory(path)
    try:
        check_weights(path)
    except WeightsUnfit as error:
        if is_adapter(path):
            raise
        raise type(error)(f"{error}. `conclave weights inspect {path}` lists all problems.") from error


def _check_digest(digest: str | None) -> None:
    if digest is not None and not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise InvalidInput(f"--digest {digest!r}: expected sha256: and 64 hex digits (0-9a-f), as `digest` prints it")


def _read_manifest(manifest: Path) -> tuple[WeightsFile, ...]:
    try:
        text = manifest.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"--manifest {manifest}: cannot be read: {error}; give the file that `digest --manifest` wrote"
        ) from error
    try:
        return read_manifest(text)
    except WeightsUnfit as error:
        raise InvalidInput(
            f"--manifest {manifest}: {error}. Give the file that `conclave weights digest --manifest` wrote."
        ) from error


def _check_option(option: str, value: str, type_: Any) -> None:
    """An option follows the rule of the field that has the same meaning in a ModelDeployment."""
    rule = next(part for part in get_args(type_) if isinstance(part, Format))
    if value and not rule.matches(value):
        raise InvalidInput(f'{option} "{value}" is not {rule.allowed}')


def _write_whole(path: Path, text: str) -> None:
    """What bears the name is whole at any time, the old text or the new; a pipe or device is simply written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        target = path.resolve()
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with beside.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written: {error.strerror or error}") from error


def _size_bytes(path: Path) -> int:
    return sum(size_bytes for _, size_bytes in list_files(path))


@contextmanager
def _progress(verb: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; on a pipe a line on stderr at each tenth of long work."""
    with progress_bar(verb, total_bytes) as advance:
        if advance is not None:
            yield advance
        else:
            yield _Tenths(verb, total_bytes) if total_bytes >= _LONG_WORK_BYTES else lambda _bytes: None


class _Tenths:
    """Says on stderr when another tenth is done; may be called from several threads."""

    def __init__(self, verb: str, total_bytes: int) -> None:
        self._verb, self._total_bytes, self._done_bytes, self._told = verb, total_bytes, 0, 0
        self._lock = Lock()

    def __call__(self, count_bytes: int) -> None:
        with self._lock:
            self._done_bytes += count_bytes
            tenth = self._done_bytes * 10 // self._total_bytes
            if tenth > self._told:
                self._told = tenth
                say(f"{self._verb}: {tenth * 10} % of {self._total_bytes / 2**30:.1f} GiB", err=True)
