"""GLUE from the Hugging Face hub, at a pinned revision and without remote code."""

import logging
from collections.abc import Sequence
from typing import Any

from huggingface_hub import constants

from rlora.data.examples import Examples
from rlora.integrations.hf_hub import hub_answers

log = logging.getLogger(__name__)
HUB_ID = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def location(subset: str) -> str:
    """Return the id, revision and subset as one string, for the run record."""
    return f"{HUB_ID}@{HUB_REVISION}/{subset}"


def load_split(subset: str, split: str) -> Any:
    """Load one split of a GLUE subset.

    Args:
        subset: Subset name, for example `cola`.
        split: Split name, for example `validation_matched`.

    Raises:
        ValueError: The hub is unreachable and no copy is cached.
    """
    import datasets

    if not hub_answers():
        # Offline mode reads the local cache at once, instead of retrying for half a minute.
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(HUB_ID, subset, split=split, revision=HUB_REVISION)
    except Exception as error:  # network errors of five libraries have no common base
        raise ValueError(
            f"{HUB_ID} ({subset}, {split}) could not be loaded from the Hugging Face hub "
            f"({type(error).__name__}); set task.path or the environment variable RLORA_DATA to a "
            "directory with the GLUE files."
        ) from error


def read_hub(
    subset: str,
    split: str,
    *,
    text: Sequence[str],
    labeled: bool,
    labels: Sequence[str] | None = None,
    incomplete_rows: str = "error",
) -> Examples:
    """Read the examples of one split.

    Args:
        subset: Subset name.
        split: Split name.
        text: Columns of the text fields.
        labeled: Whether the split's labels are known.
        labels: Label names of the task in id order, which may differ from the hub's order.
        incomplete_rows: `error` or `skip`, for labeled rows with an empty text.

    Raises:
        ValueError: The hub is unreachable, or a row has an empty text or no label.
    """
    data = load_split(subset, split)
    texts = list(zip(*(list(data[column]) for column in text), strict=True))
    if not labeled:
        return Examples(texts)
    values = list(data["label"])
    if None in values:
        raise ValueError(f"{location(subset)}, {split}: row {values.index(None) + 1} has no label.")
    rows = [
        row for row, fields in enumerate(texts) if all(field and field.strip() for field in fields)
    ]
    if len(rows) < len(texts) and incomplete_rows == "error":
        raise ValueError(
            f"{location(subset)}, {split}: {len(texts) - len(rows)} rows have an empty text."
        )
    return Examples(texts, _in_order(values, _label_names(data), labels)).take(rows)


def _label_names(data: Any) -> list[str] | None:
    """Return the hub's names of the class ids, None where it has none."""
    feature = getattr(data, "features", {}).get("label")
    return getattr(feature, "names", None)


def _in_order(
    values: list[Any], names: list[str] | None, labels: Sequence[str] | None
) -> list[Any]:
    """Return class ids in the task's order.

    The names "0", "1", ... mean the hub's ids. Names are compared without case; others count by
    position, and a warning says so.

    Raises:
        ValueError: The task has another number of labels.
    """
    if not names or labels is None:
        return values
    if len(labels) != len(names):
        raise ValueError(
            f"task.labels={list(labels)} is invalid: the hub's labels are {names}; name as many"
        )
    numbers = list(map(str, range(len(names))))
    ours = [label.casefold() for label in labels]
    for known in ([name.casefold() for name in names], numbers):
        if sorted(known) == sorted(ours):
            order = [ours.index(name) for name in known]
            return [order[value] if value >= 0 else value for value in values]
    pairs = ", ".join(f"{label} = {name}" for label, name in zip(labels, names, strict=True))
    log.warning("task.labels are not the hub's names and count by position: %s", pairs)
    return values
