"""`conclave weights digest|verify`: the digest that a ModelDeployment names, made and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from conclave_weights.digest import digest_of, hash_files, list_files, read_manifest, verify, write_manifest
from conclave_weights.soundness import check_weights

app = typer.Typer(
    name="weights", no_args_is_help=True, rich_markup_mode=None, help="Digest and verify the weights of a model."
)

WeightsPath = Annotated[Path, typer.Argument(metavar="PATH", help="Directory of the weights.")]


@app.command()
def digest(
    path: WeightsPath,
    manifest: Annotated[Path | None, typer.Option(help="Also write each file's hash and size to this file.")] = None,
) -> None:
    """Print the digest of the weights, as spec.model.digest takes it."""
    check_weights(path)
    with _progress(path) as on_progress:
        files = hash_files(path, on_progress=on_progress)
    if manifest is not None:
        manifest.write_text(write_manifest(files))
    typer.echo(digest_of(files))


@app.command(name="verify")
def verify_command(
    path: WeightsPath,
    digest: Annotated[str, typer.Option(help="The digest that the weights must have.")],
    manifest: Annotated[Path | None, typer.Option(help="What `digest --manifest` wrote: names the files.")] = None,
) -> None:
    """Check that the weights are whole and have this digest."""
    check_weights(path)
    expected = None if manifest is None else read_manifest(manifest.read_text())
    with _progress(path) as on_progress:
        files = verify(path, digest, manifest=expected, on_progress=on_progress)
    typer.echo(f"{path}: {len(files)} files, {sum(file.size_bytes for file in files)} bytes: {digest}")


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], None]]:
    total_bytes = sum(size_bytes for _, size_bytes in list_files(path))
    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total_bytes)
        yield lambda count_bytes: progress.advance(task, count_bytes)
