"""The identity of a run: its config, the files it reads, and the code that computes it."""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlora.records.record import Run

SAME_CODE, SAME_CONFIG = "same_code", "same_config"  # values of skip_finished, besides false
CODE = "code"  # a change of the code, among the kinds of inputs


@dataclass(frozen=True)
class Identity:
    """What determines the result of a run on one machine.

    Args:
        config_hash: See `rlora.config.config_hash`.
        inputs: SHA-256 (hex) of the files that the run reads, by kind: data, model, checkpoint, ...
        code: See `rlora.records.code_digest`.
    """

    config_hash: str
    inputs: dict[str, str] = field(default_factory=dict)
    code: str = ""

    def changes(self, run: Run) -> list[str]:
        """Return what has changed since a run of the same config: kinds of inputs, and `CODE`.

        A record without a digest counts as changed: it was written by an earlier version, or the
        input is new.
        """
        kinds = sorted({*self.inputs, *run.inputs})
        changed = [kind for kind in kinds if self.inputs.get(kind) != run.inputs.get(kind)]
        return changed + [CODE] * (not run.code or run.code != self.code)


def digest_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 (hex) of the names and bytes of files and of all files below folders.

    Hidden files do not count, and neither does the place of a file or folder: a copy has the same
    digest. A file that does not exist counts as such, as what reads it raises the error.
    """
    lines = []
    for path in sorted(paths):
        files = _files_below(path) if path.is_dir() else [path]
        for file in files:
            lines.append(f"{file.relative_to(path.parent)} {_digest_file(file)}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _files_below(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(
        file
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _digest_file(file: Path) -> str:
    try:
        facts = file.stat()
    except FileNotFoundError:
        return "missing"
    return _digest_bytes(file, facts.st_size, facts.st_mtime_ns)


@functools.cache
def _digest_bytes(file: Path, size: int, modified: int) -> str:
    """Return the SHA-256 (hex) of a file. Cached, as the jobs of a multirun share their files.

    Size and time of modification are part of the cache key.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
