"""Files of generated texts and of references, as the E2E challenge's scorer reads them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rlora.io.atomic import write_atomically


def write_outputs(path: Path, sources: Sequence[str], texts: Sequence[str]) -> Path:
    """Write a table of the columns MR and output, separated by tabs.

    Raises:
        ValueError: the numbers differ.
    """
    if len(sources) != len(texts):
        raise ValueError(f"{path}: {len(texts)} texts for {len(sources)} sources; give one each")
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("MR", "output"))
    writer.writerows((source, _line(text)) for source, text in zip(sources, texts, strict=True))
    return write_atomically(path, stream.getvalue().encode())


def write_references(path: Path, groups: Sequence[Sequence[str]]) -> Path:
    """Write references one a line, an empty line after those of each source."""
    blocks = ["".join(f"{_line(text)}\n" for text in group) for group in groups]
    return write_atomically(path, "\n".join(blocks).encode())


def _line(text: str) -> str:
    return " ".join(text.split())
