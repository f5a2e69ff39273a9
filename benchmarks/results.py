"""The results as one JSON file, a section for each part; every section says where and how it was measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import UNSTABLE
from rlora.io.atomic import write_atomically

FORMAT = 1
Document = dict[str, Any]


def new_document(device: str, quick: bool) -> Document:
    """An empty one for a kind of device ("cpu" or "cuda")."""
    return {"format": FORMAT, "device": device, "quick": quick, "sections": {}}


def read_document(path: Path) -> Document | None:
    """Read what is there, None where nothing is.

    Raises:
        ValueError: it is not such a file.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): move it away") from error
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or "sections" not in document
    ):
        raise ValueError(
            f"{path} is not of format {FORMAT}, the one this version reads: move it away"
        )
    return document


def to_continue(path: Path, device: str, quick: bool, environment: Mapping[str, Any]) -> Document:
    """The document that some parts are to be replaced in; a new one where there is none.

    Raises:
        ValueError: it was measured on another device or with the other settings.
    """
    document = read_document(path)
    if document is None:
        return new_document(device, quick)
    if (document["device"], document["quick"]) != (device, quick):
        kind = "quick" if document["quick"] else "full"
        raise ValueError(
            f"{path} holds {kind} measurements of {document['device']}: choose another --out"
        )
    names = {section["environment"]["device"] for section in document["sections"].values()}
    if others := names - {environment["device"]}:
        raise ValueError(
            f"{path} was measured on {', '.join(sorted(others))}, this is {environment['device']}: measure all parts "
            "anew, without --only, or choose another --out"
        )
    return document


def write_document(document: Document, path: Path) -> None:
    """Write the JSON file whole or not at all."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def differing_facts(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Facts of the environment in which sections differ: {fact: {section: value}}, load and commit apart."""
    facts: dict[str, None] = {}
    for section in sections.values():
        facts.update(dict.fromkeys(section["environment"]))
    found = {
        fact: {name: section["environment"].get(fact) for name, section in sections.items()}
        for fact in facts
        if fact not in UNSTABLE
    }
    return {
        fact: values
        for fact, values in found.items()
        if len({json.dumps(v) for v in values.values()}) > 1
    }
