"""Data-to-text generation: E2E NLG, DART and WebNLG, read from their official files.

Sources: Novikova et al., "The E2E Dataset", SIGDIAL 2017; Nan et al., "DART", NAACL 2021; Gardent
et al., "The WebNLG Challenge", INLG 2017. Linearizations: microsoft/LoRA@c4593f0
examples/NLG/src/format_converting_*.py, and its data.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlora.data.locations import data_folder
from rlora.io.json_values import read_json
from rlora.io.rows import read_csv
from rlora.metrics import nlg
from rlora.tasks.base import TextScores, has_value
from rlora.tasks.generation import Prompt, PromptedGeneration
from rlora.tasks.language_modeling import Pair
from rlora.tasks.submissions import write_outputs, write_references

_SLOT = re.compile(r"([A-Za-z][A-Za-z ]*)\[([^\]]*)\]")
_WEBNLG_TRIPLE = ("subject", "property", "object")
_E2E_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}


@dataclass(frozen=True)
class Entry:
    """Structured data with reference texts.

    Attributes:
        source: The data as the official files write it.
        prompt: The data as the model reads it.
        texts: One or more reference texts.
        location: File and line, or file and entry.
    """

    source: str
    prompt: str
    texts: tuple[str, ...]
    location: str


@dataclass(kw_only=True, eq=False)
class DataToText(PromptedGeneration):
    """Text from structured data, scored as in the E2E challenge, with one text per distinct source.

    Attributes:
        files: File names by split: train, validation, test.
        folder: Name of the files' folder below `$RLORA_DATA`.
        origin: Where to download the files, for messages.
    """

    files: Mapping[str, str]
    folder: str
    origin: str
    reported: str | None = "BLEU"
    end_after_prompt: bool = True

    @abstractmethod
    def entries(self, file: Path) -> list[Entry]:
        """Read a file.

        Raises:
            ValueError: The file is malformed; the message names file and line.
        """

    def read(self) -> dict[str, list[Pair]]:
        """Return every text of train and validation with its prompt."""
        return {
            split: [
                Pair(entry.prompt, text, entry.location)
                for entry in self._entries(split)
                for text in entry.texts
            ]
            for split in ("train", "validation")
        }

    def prompt_text(self, source: str, location: str) -> str:
        """Return a source as the model reads it; triples are written that way already."""
        return source

    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return each distinct source of the test file with all its texts."""
        prompts: dict[str, Prompt] = {}
        for entry in self._entries("test"):
            prompt = prompts.setdefault(
                entry.source, Prompt(entry.prompt, entry.source, (), entry.location)
            )
            references = (*prompt.references, *entry.texts)
            prompts[entry.source] = replace(prompt, references=references)
        return {"test": list(prompts.values())}

    def score(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Return BLEU, NIST, METEOR, ROUGE_L and CIDEr; see `rlora.metrics.nlg`."""
        references = [prompt.references for prompt in self.test_prompts["test"]]
        scores = nlg.score(texts["test"], references)
        missing = {f"test/{name}": reason for name, reason in scores.missing.items()}
        return TextScores({f"test/{name}": value for name, value in scores.values.items()}, missing)

    def write(self, texts: Mapping[str, Sequence[str]], directory: Path) -> list[Path]:
        """Write `<split>.tsv` (MR, output) and `<split>-references.txt` for the official scorer."""
        files = []
        for split, outputs in texts.items():
            prompts = self.test_prompts[split]
            sources = [prompt.source for prompt in prompts]
            references = [prompt.references for prompt in prompts]
            files.append(write_outputs(directory / f"{split}.tsv", sources, outputs))
            files.append(write_references(directory / f"{split}-references.txt", references))
        return files

    def input_files(self) -> list[Path]:
        """Return the files of all splits."""
        return [self._folder() / name for name in self.files.values()]

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the columns of sources and texts."""
        return (*self.fields, "ref")

    def row_target(self, row: Mapping[str, Any], location: str) -> str | None:
        """Return the reference text, the column `ref`."""
        return _clean_text(row["ref"], location) if has_value(row, "ref") else None

    def score_rows(
        self, inputs: Sequence[tuple[str, ...]], targets: Sequence[str], predictions: Sequence[str]
    ) -> TextScores:
        """Return the scores of `score`, of the first text of each distinct source."""
        references: dict[tuple[str, ...], list[str]] = {}
        texts: dict[tuple[str, ...], str] = {}
        for source, target, text in zip(inputs, targets, predictions, strict=True):
            references.setdefault(source, []).append(target)
            texts.setdefault(source, text)
        scores = nlg.score([*texts.values()], [*references.values()])
        return TextScores(scores.values, scores.missing)

    def source(self) -> dict[str, str]:
        """Return the folder of the files."""
        return {"source": "directory", "location": str(self._folder())}

    def _entries(self, split: str) -> list[Entry]:
        file = self._folder() / self.files[split]
        entries = self.entries(file)
        if not entries:
            raise ValueError(f"{file} has no rows; put a complete file under task.path.")
        return entries

    def _folder(self) -> Path:
        return data_folder(self.path, self.folder, list(self.files.values()), self.origin)


class E2E(DataToText):
    """E2E NLG: restaurants; official CSV files with the columns `mr` and `ref`."""

    def entries(self, file: Path) -> list[Entry]:
        """Return one entry per row."""
        entries = []
        for number, row in read_csv(file):
            if [name.lower() for name in row] != ["mr", "ref"]:
                raise ValueError(f"{file}, line 1: the columns are {[*row]}, expected mr and ref")
            location = f"{file}, line {number}"
            source, text = row.values()
            texts = (_clean_text(text, location),)
            entries.append(Entry(source, linearize(source, location), texts, location))
        return entries

    def prompt_text(self, source: str, location: str) -> str:
        """Return the linearized meaning representation."""
        return linearize(source, location)

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the columns of the official files, and `input`."""
        return ("mr", *super().row_columns)

    def row_inputs(self, row: Mapping[str, Any], location: str) -> tuple[str, ...]:
        """Return the meaning representation, the column `mr` or `input`."""
        return super().row_inputs({"input": row["mr"]} if "mr" in row else row, location)


def linearize(meaning: str, location: str) -> str:
    """Return a meaning representation as "name : The Vaults | Type : pub | price : cheap".

    Raises:
        ValueError: It has no slots, or other text between them.
    """
    slots = _SLOT.findall(meaning)
    if not slots or _SLOT.sub("", meaning).replace(",", "").strip():
        raise ValueError(
            f"{location}: the meaning representation {meaning!r} is not a list of slots such as "
            "name[The Vaults]"
        )
    return " | ".join(
        f"{_E2E_NAMES.get(name.strip(), name.strip())} : {value}" for name, value in slots
    )


class DART(DataToText):
    """DART: triples; official JSON files, a list of objects with `tripleset` and `annotations`."""

    def entries(self, file: Path) -> list[Entry]:
        """Return one entry per object."""
        entries = []
        for number, item in enumerate(_read_json(file, list), start=1):
            location = f"{file}, entry {number}"
            parts = [_triple(each, location) for each in _list(item, "tripleset", location)]
            triples = [(subject, relation.lower(), value) for subject, relation, value in parts]
            texts = tuple(
                _clean_text(_field(annotation, "text", location), location)
                for annotation in _list(item, "annotations", location)
            )
            if not texts:
                raise ValueError(f"{location}: it has no texts under 'annotations'")
            entries.append(_triple_entry(triples, texts, location))
        return entries


class WebNLG(DataToText):
    """WebNLG 2017: triples; official JSON files with `entries`; texts commented "good" count."""

    def entries(self, file: Path) -> list[Entry]:
        """Return one entry per entry of the file that has a good text."""
        entries = []
        items = _list(_read_json(file, dict), "entries", str(file))
        for number, numbered in enumerate(items, start=1):
            location = f"{file}, entry {number}"
            if not isinstance(numbered, dict):
                raise ValueError(f"{location}: it is no object with the entry under its number")
            item: Any = next(iter(numbered.values()), {})
            triples = [
                _triple([_field(triple, name, location) for name in _WEBNLG_TRIPLE], location)
                for triple in _list(item, "modifiedtripleset", location)
            ]
            texts = tuple(
                _clean_text(_field(text, "lex", location), location)
                for text in _list(item, "lexicalisations", location)
                if isinstance(text, dict) and text.get("comment") == "good"
            )
            entries.append(_triple_entry(triples, texts, location))
        return [entry for entry in entries if entry.texts]


def _triple_entry(
    triples: Sequence[tuple[str, str, str]], texts: tuple[str, ...], location: str
) -> Entry:
    if not triples:
        raise ValueError(f"{location}: it has no triples")
    prompt = " | ".join(f"{subject} : {relation} : {value}" for subject, relation, value in triples)
    return Entry(prompt, prompt, texts, location)


def _triple(parts: Any, location: str) -> tuple[str, str, str]:
    if not isinstance(parts, list) or [*map(type, parts)] != [str, str, str]:
        raise ValueError(f"{location}: {parts!r} is no triple of texts")
    return parts[0], parts[1], parts[2]


def _clean_text(text: Any, location: str) -> str:
    """Return the text with single blanks."""
    if not isinstance(text, str):
        raise ValueError(f"{location}: {text!r} is no text")
    if not text.strip():
        raise ValueError(f"{location}: its text is empty")
    return " ".join(text.split())


def _read_json(file: Path, expected: type) -> Any:
    content = read_json(file)
    if not isinstance(content, expected):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a {expected.__name__}")
    return content


def _field(item: Any, name: str, location: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise ValueError(f"{location}: it has no {name!r}")
    return item[name]


def _list(item: Any, name: str, location: str) -> list[Any]:
    value = _field(item, name, location)
    if not isinstance(value, list):
        raise ValueError(f"{location}: its {name!r} is no list")
    return value
