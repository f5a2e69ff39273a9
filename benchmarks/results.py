"""The results as one JSON file with a section per part.

Every section has its settings and its environment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import UNSTABLE
from rlora.io.atomic import write_atomically

FORMAT = 1
Document = dict[str, Any]


def new_document(device: str, quick: bool) -> Document:
    """Return an empty document for a device type ("cpu" or "cuda")."""
    return {"format": FORMAT, "device": device, "quick": quick, "sections": {}}


def read_document(path: Path) -> Document | None:
    """Read a document, or return None if there is no file.

    Raises:
        ValueError: The file is not a document of this format.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): move it away") from error
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or "sections" not in document
    ):
        raise ValueError(
            f"{path} is not a document of format {FORMAT}, which this version reads: move it away"
        )
    return document


def document_to_update(
    path: Path, device: str, quick: bool, environment: Mapping[str, Any]
) -> Document:
    """Return the document in which some parts are replaced, or a new one if there is no file.

    Raises:
        ValueError: It was measured on another device or with other settings.
    """
    document = read_document(path)
    if document is None:
        return new_document(device, quick)
    if (document["device"], document["quick"]) != (device, quick):
        size = "quick" if document["quick"] else "full"
        raise ValueError(
            f"{path} holds {size} measurements of {document['device']}: set another --out"
        )
    names = {section["environment"]["device"] for section in document["sections"].values()}
    if others := names - {environment["device"]}:
        raise ValueError(
            f"{path} was measured on {', '.join(sorted(others))}, this is {environment['device']}: "
            "measure all parts again without --only, or set another --out"
        )
    return document


def write_document(document: Document, path: Path) -> None:
    """Write the JSON file atomically."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def differing_facts(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the facts of the environment that differ: {fact: {section: value}}.

    Facts in `UNSTABLE`, such as the load, do not count.
    """
    facts: dict[str, None] = {}
    for section in sections.values():
        facts.update(dict.fromkeys(section["environment"]))
    by_fact = {
        fact: {name: section["environment"].get(fact) for name, section in sections.items()}
        for fact in facts
        if fact not in UNSTABLE
    }
    return {
        fact: values
        for fact, values in by_fact.items()
        if len({json.dumps(v) for v in values.values()}) > 1
    }
