"""Text examples of one split before tokenization."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Attributes:
        texts: One tuple of text fields per example.
        labels: Class ids or scores, or None for an unlabeled split.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[int] | Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> "Examples":
        """Return the examples at `rows`, in that order."""
        chosen = [int(row) for row in rows]
        labels = None if self.labels is None else [self.labels[row] for row in chosen]
        return Examples([self.texts[row] for row in chosen], labels)

    @cached_property
    def text_digest(self) -> str:
        """SHA-256 (hex) of the texts alone, which determine the tokens."""
        digest = hashlib.sha256()
        for fields in self.texts:
            # The lengths keep ("ab", "c") and ("a", "bc") apart.
            encoded = [field.encode("utf-8", "surrogatepass") for field in fields]
            digest.update(b"".join(b"%d:%b" % (len(part), part) for part in encoded) + b"\n")
        return digest.hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of texts and labels."""
        labels = "" if self.labels is None else ",".join(map(repr, self.labels))
        return hashlib.sha256(f"{self.text_digest}|{labels}".encode()).hexdigest()

    def label_array(self, num_labels: int | None) -> NDArray[np.generic] | None:
        """Return the labels as int64 class ids, or as float32 scores where `num_labels` is None.

        Raises:
            ValueError: A class id is outside 0 .. num_labels - 1, or a score is not finite.
        """
        if self.labels is None:
            return None
        if num_labels is None:
            scores = np.asarray(self.labels, dtype=np.float32)
            if not np.isfinite(scores).all():
                raise ValueError(
                    "A score is not a finite number; correct the data under task.path."
                )
            return scores
        ids = np.asarray(self.labels, dtype=np.int64)
        invalid = ids[(ids < 0) | (ids >= num_labels)]
        if invalid.size:
            raise ValueError(
                f"Label {invalid[0]} is outside 0..{num_labels - 1}; "
                "correct task.labels or the data."
            )
        return ids


def fingerprint(splits: dict[str, Examples]) -> str:
    """Return the SHA-256 (hex) of the names, texts and labels of all splits."""
    lines = (
        f"{name}:{len(examples)}:{examples.digest}" for name, examples in sorted(splits.items())
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
