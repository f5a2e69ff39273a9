"""Data-to-text generation: E2E NLG, DART and WebNLG, read from their official files.

Sources: Novikova et al., "The E2E Dataset", SIGDIAL 2017; Nan et al., "DART", NAACL 2021; Gardent et al., "The WebNLG
Challenge", INLG 2017. Linearizations: microsoft/LoRA@c4593f0 examples/NLG/src/format_converting_*.py, and its data.
"""

import csv
import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlora.data.locations import data_folder
from rlora.metrics import nlg
from rlora.tasks.base import TextScores
from rlora.tasks.generation import GenerationTask, Prompt
from rlora.tasks.language_modeling import Pair
from rlora.tasks.submissions import write_outputs, write_references

_SLOT = re.compile(r"([A-Za-z][A-Za-z ]*)\[([^\]]*)\]")
_E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


@dataclass(frozen=True)
class Entry:
    """Something to be said, and ways of saying it.

    Attributes:
        source: As the official files write it.
        prompt: As the model reads it.
        texts: One or more.
        place: File and line, or file and entry.
    """

    source: str
    prompt: str
    texts: tuple[str, ...]
    place: str


@dataclass(kw_only=True, eq=False)
class DataToText(GenerationTask):
    """Texts from structured data, scored as the E2E challenge does; each distinct source is written for once.

    Attributes:
        files: File names by split: train, validation, test.
    """

    files: Mapping[str, str]
    folder: str
    origin: str
    reported: str | None = "BLEU"
    parted: bool = True

    @abstractmethod
    def entries(self, file: Path) -> list[Entry]:
        """Read a file.

        Raises:
            ValueError: it is malformed; told by file and line.
        """

    def read(self) -> dict[str, list[Pair]]:
        """Return every text of train and validation with its prompt."""
        found = {
            name: self.entries(self._folder() / self.files[name])
            for name in ("train", "validation")
        }
        return {
            name: [
                Pair(entry.prompt, text, entry.place) for entry in entries for text in entry.texts
            ]
            for name, entries in found.items()
        }

    def prompt_for(self, source: str, place: str) -> str:
        """Return a source as the model reads it; triples are written that way already."""
        return source

    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return each distinct source of the test file with all of its texts."""
        grouped: dict[str, Prompt] = {}
        for entry in self.entries(self._folder() / self.files["test"]):
            known = grouped.get(entry.source, Prompt(entry.prompt, entry.source, (), entry.place))
            grouped[entry.source] = Prompt(
                known.prompt, known.source, (*known.references, *entry.texts), known.place
            )
        return {"test": list(grouped.values())}

    def score_texts(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Return BLEU, NIST, METEOR, ROUGE_L and CIDEr, see `rlora.metrics.nlg`."""
        scores = nlg.score(texts["test"], [prompt.references for prompt in self.asked["test"]])
        missing = {f"test/{name}": why for name, why in scores.missing.items()}
        return TextScores({f"test/{name}": value for name, value in scores.values.items()}, missing)

    def write_texts(self, directory: Path, split: str, texts: Sequence[str]) -> list[Path]:
        """Write ``<split>.tsv`` (MR, output) and ``<split>-references.txt``, which the official scorer takes."""
        asked = self.asked[split]
        outputs = write_outputs(directory / f"{split}.tsv", [p.source for p in asked], texts)
        return [
            outputs,
            write_references(directory / f"{split}-references.txt", [p.references for p in asked]),
        ]

    def source(self) -> dict[str, str]:
        """Return the folder."""
        return {"source": "directory", "location": str(self._folder())}

    def _folder(self) -> Path:
        return data_folder(self.path, self.folder, list(self.files.values()), self.origin)


class E2E(DataToText):
    """E2E NLG: restaurants; official CSV files with the columns mr and ref."""

    def entries(self, file: Path) -> list[Entry]:
        """One entry a row."""
        found = []
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.lower() for name in next(reader, [])]
            if header != ["mr", "ref"]:
                raise ValueError(f"{file}, line 1: the columns are {header}, not mr and ref")
            for row in reader:
                place = f"{file}, line {reader.line_num}"
                if len(row) != 2:
                    raise ValueError(f"{place}: {len(row)} columns, not mr and ref")
                found.append(
                    Entry(row[0], linearized(row[0], place), (_said(row[1], place),), place)
                )
        return found

    def prompt_for(self, source: str, place: str) -> str:
        """Linearize a meaning representation."""
        return linearized(source, place)


def linearized(mr: str, place: str) -> str:
    """Return a meaning representation as "name : The Vaults | Type : pub | price : cheap".

    Raises:
        ValueError: it has no slots, or something stands between them.
    """
    slots = _SLOT.findall(mr)
    if not slots or _SLOT.sub("", mr).replace(",", "").strip():
        raise ValueError(
            f"{place}: the meaning representation {mr!r} is not a list of slots such as name[The Vaults]"
        )
    return " | ".join(
        f"{_E2E_NAMES.get(name.strip(), name.strip())} : {value}" for name, value in slots
    )


class DART(DataToText):
    """DART: triples; official JSON files, a list of objects with ``tripleset`` and ``annotations``."""

    def entries(self, file: Path) -> list[Entry]:
        """One entry an object."""
        found = []
        for number, item in enumerate(_json(file, list), start=1):
            place = f"{file}, entry {number}"
            triples = [(s, p.lower(), o) for s, p, o in _field(item, "tripleset", place)]
            texts = tuple(
                _said(_field(a, "text", place), place) for a in _field(item, "annotations", place)
            )
            found.append(_of_triples(triples, texts, place))
        return found


class WebNLG(DataToText):
    """WebNLG 2017: triples; official JSON files with ``entries``, of which the texts commented "good" count."""

    def entries(self, file: Path) -> list[Entry]:
        """One entry an entry."""
        found = []
        for number, outer in enumerate(_field(_json(file, dict), "entries", str(file)), start=1):
            place = f"{file}, entry {number}"
            item: Any = next(iter(outer.values()), {})
            triples = [
                (triple["subject"], triple["property"], triple["object"])
                for triple in _field(item, "modifiedtripleset", place)
            ]
            spoken = [
                one
                for one in _field(item, "lexicalisations", place)
                if one.get("comment") == "good"
            ]
            found.append(
                _of_triples(triples, tuple(_said(one["lex"], place) for one in spoken), place)
            )
        return [entry for entry in found if entry.texts]


def _of_triples(
    triples: Sequence[tuple[str, str, str]], texts: tuple[str, ...], place: str
) -> Entry:
    if not triples:
        raise ValueError(f"{place}: it has no triples")
    prompt = " | ".join(f"{subject} : {relation} : {thing}" for subject, relation, thing in triples)
    return Entry(prompt, prompt, texts, place)


def _said(text: str, place: str) -> str:
    if not text.strip():
        raise ValueError(f"{place}: its text is empty")
    return " ".join(text.split())


def _json(file: Path, kind: type) -> Any:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{file} holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def _field(item: Any, name: str, place: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise ValueError(f"{place}: it has no {name!r}")
    return item[name]
