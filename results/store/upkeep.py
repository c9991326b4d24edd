"""What is done before a call writes to a run folder: it can be written to, and no file in it is cut short."""

import os
from pathlib import Path

from results.store.run_folder import RunFolder
from results.store.whole_files import check_files, check_writable, framed_size, set_aside, sweep_partials

_MAGIC = b"PAR1"  # the first and the last bytes of a parquet file


def make_ready(run_dir: Path) -> list[str]:
    """Sweep what killed writers left, set damaged parquet files aside; return a line on each of these.

    What a file held that was set aside is missing, and so made again. OSError names what cannot be written.
    """
    folder = RunFolder(run_dir)
    check_writable(folder.root)
    for below in (folder.images, folder.records, folder.metrics, folder.settings, folder.candidates,
                  folder.provenance, folder.tables, folder.plots, folder.strips):  # fmt: skip
        if below.exists() and not below.is_dir():
            raise NotADirectoryError(f"{below}: is a file, allowed is a folder; move it away")
        if below.exists() and not os.access(below, os.W_OK):
            raise PermissionError(
                f"{below}: cannot be written to; change its rights, or choose another run_dir"
            )
        check_files(below)
    sweep_partials(folder.root)
    return [
        f"{file}: damaged, now {set_aside(file).name}; what it held is made again"
        for store in (folder.records, folder.settings, folder.metrics, folder.candidates)
        for file in sorted(store.rglob("*.parquet"))
        if not framed_size(file, _MAGIC, _MAGIC)
    ]
