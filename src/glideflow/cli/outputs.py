# SPDX-License-Identifier: Apache-2.0
"""`glideflow outputs`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from glideflow.cli.terminal import (
    AsJson,
    Columns,
    Flag,
    Json,
    connect,
    counted,
    err,
    print_json,
    print_table,
    say,
    size,
)
from glideflow.client import Client
from glideflow.client.download import is_same
from glideflow.errors import ServiceError, UserError

OUTPUT_COLUMNS: Columns = {
    "dataset": lambda row: row["dataset"],
    "file": lambda row: row["file"],
    "size": lambda row: size(row["size_bytes"]),
    "events": lambda row: row["events"],
    "job": lambda row: row["job_id"],
    "url": lambda row: row["url"],
}


def outputs(
    task: str,
    /,
    *,
    to: Path | None = None,
    dataset: str | None = None,
    force: Flag = False,
    json: AsJson = False,
) -> None:
    """List, or fetch, the files that a task has made.

    Files that are in the folder already and are the same are not fetched again. Where jobs wrote files with one name,
    the job's number is put in front.

    For example:

    * glideflow outputs zpeak-analyse
    * glideflow outputs zpeak-analyse --to results
    * glideflow outputs 12 --dataset zpeak.events --to events

    Args:
        task: The task's id, or its name; of several with one name, the latest.
        to: Fetch the files into this folder, which is made.
        dataset: Only files of this dataset.
        force: Overwrite files in the folder that differ.
        json: Print JSON.
    """
    with connect() as client:
        found = [item for item in client.outputs(task) if dataset in (None, item["dataset"])]
        if to is not None:
            found = _fetch(client, found, to, force=force, quiet=json)
    if json:
        print_json(found)
    elif to is None:
        print_table(found, OUTPUT_COLUMNS, empty=f"task {task} has made no files yet")


def _fetch(client: Client, items: Sequence[Json], folder: Path, *, force: bool, quiet: bool) -> list[Json]:
    """Fetch files; returns them with the path of each."""
    paths = [folder / name for name in local_names(items)]
    missing = [
        (item, path)
        for item, path in zip(items, paths, strict=True)
        if not is_same(path, item["size_bytes"], item["sha256"])
    ]
    different = [path for _, path in missing if path.exists()]
    if different and not force:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(f"{different[0]}{more} exists and differs: choose another folder, or overwrite with --force")
    _download(client, missing)
    if not quiet:
        have = len(items) - len(missing)
        rest = f"; {have} were there already" if have else ""
        say(f"{counted(len(missing), 'file')} fetched into {folder}{rest}")
    return [{**item, "path": str(path)} for item, path in zip(items, paths, strict=True)]


def _download(client: Client, missing: Sequence[tuple[Json, Path]]) -> None:
    columns = (TextColumn("fetching"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err(), transient=True) as progress:
        bar = progress.add_task("", total=sum(item["size_bytes"] for item, _ in missing))
        for item, path in missing:
            client.download(
                item["url"], path, item["size_bytes"], item["sha256"], lambda number: progress.advance(bar, number)
            )


def local_names(items: Sequence[Json]) -> list[str]:
    """Return a name for each file, relative to the folder; no two are equal.

    Args:
        items: Outputs of a task.

    Raises:
        ServiceError: A name that leads out of the folder.
    """
    counts = Counter(item["file"] for item in items)
    names: list[str] = []
    used: set[str] = set()
    for item in items:
        path = PurePosixPath(item["file"])
        if path.is_absolute() or ".." in path.parts:
            raise ServiceError(f"the endpoint names a file {path}, outside of the folder")
        front = "merge" if item["stage"] == "merge" else item["index"]
        name = str(path if counts[item["file"]] == 1 else path.with_name(f"{front}-{path.name}"))
        if name in used:
            name = str(path.with_name(f"{item['job_id']}-{path.name}"))
        used.add(name)
        names.append(name)
    return names
