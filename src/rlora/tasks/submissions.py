"""Files that official scorers read: predictions for GLUE, texts and references for E2E."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rlora.io.atomic import write_atomically


def write_outputs(path: Path, sources: Sequence[str], texts: Sequence[str]) -> Path:
    """Write a tab-separated table with the columns MR and output.

    Raises:
        ValueError: The numbers of sources and texts differ.
    """
    if len(sources) != len(texts):
        raise ValueError(f"{path}: {len(texts)} texts for {len(sources)} sources; pass one each")
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("MR", "output"))
    writer.writerows((source, _line(text)) for source, text in zip(sources, texts, strict=True))
    return write_atomically(path, stream.getvalue().encode())


def write_references(path: Path, groups: Sequence[Sequence[str]]) -> Path:
    """Write one reference per line, with an empty line between the sources."""
    blocks = ["".join(f"{_line(text)}\n" for text in group) for group in groups]
    return write_atomically(path, "\n".join(blocks).encode())


def _line(text: str) -> str:
    return " ".join(text.split())


def format_prediction(
    value: float | int, labels: Sequence[str] | None, limits: tuple[float, float] | None = None
) -> str:
    """Return a class id as its label name, or a score clipped to `limits` with three decimals.

    Raises:
        ValueError: The class id has no name, or the score is not a number.
    """
    if labels is None:
        if math.isnan(value):
            raise ValueError(
                "A predicted score is not a number: the model has diverged; lower optimizer.lr."
            )
        low, high = limits or (-math.inf, math.inf)
        return f"{min(max(float(value), low), high):.3f}"
    if not 0 <= int(value) < len(labels):
        raise ValueError(
            f"Predicted class {value} is outside 0..{len(labels) - 1} of "
            f"task.labels={list(labels)}."
        )
    return labels[int(value)]


def write_table(path: Path, predictions: Sequence[str]) -> Path:
    """Write one line per prediction, numbered from 0; the file is complete or absent."""
    lines = [
        "index\tprediction",
        *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions)),
    ]
    return write_atomically(path, ("\n".join(lines) + "\n").encode())
