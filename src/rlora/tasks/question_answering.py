"""Questions answered in words, of which the answer is picked out: math and commonsense reasoning.

Protocol: AGI-Edgerunners/LLM-Adapters@8166572 (Hu et al., EMNLP 2023), finetune.py and evaluate.py. Prompts: files in
`rlora/tasks/prompts`: "alpaca" is that of tatsu-lab/stanford_alpaca, "llm_adapters" the same with the white space of
that repository's finetune.py, lines 323-343.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlora.data.locations import data_folder
from rlora.data.splits import normalize
from rlora.io.atomic import write_atomically
from rlora.metrics import answers
from rlora.tasks.base import TextScores
from rlora.tasks.generation import GenerationTask, Prompt
from rlora.tasks.language_modeling import Pair

log = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "prompts"
_CALCULATION = re.compile(r"<<[^>]*>>")  # GSM8K's notes for a calculator


@dataclass(frozen=True)
class Question:
    """One row of a file.

    Attributes:
        instruction: The question.
        input: What it refers to, or "".
        output: How it is answered in words.
        answer: The answer itself.
        place: File and row.
    """

    instruction: str
    input: str
    output: str
    answer: str
    place: str


@dataclass(kw_only=True, eq=False)
class Questions(GenerationTask):
    """Instruction tuning on questions, scored by the accuracy of the answers.

    Attributes:
        train: Training files: GSM8K's JSON lines, or JSON lists of instruction, input, output and answer.
        tests: Test sets by name: ``file`` and ``answer``, which is "number", "letter" or a list of choices.
        template: Name of a prompt in `rlora/tasks/prompts`.
        folder: Name of the files' folder below ``$RLORA_DATA``.
        origin: Where they come from, for messages.
    """

    train: Sequence[str]
    tests: Mapping[str, Mapping[str, Any]]
    folder: str
    origin: str
    template: str = "llm_adapters"
    reported: str | None = "accuracy"
    _leaked: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        known = sorted(
            file.stem for file in PROMPTS.glob("*.txt") if not file.stem.endswith("_input")
        )
        if self.template not in known:
            raise ValueError(
                f"task.template={self.template} is unknown; set task.template to one of {known}."
            )
        for name, test in self.tests.items():
            if not isinstance(test["answer"], list) and test["answer"] not in ("number", "letter"):
                raise ValueError(
                    f"task.tests.{name}.answer={test['answer']} is unknown; set it to number, letter or a list."
                )

    def read(self) -> dict[str, list[Pair]]:
        """Return every training question with its answer in words."""
        found = [
            question for name in self.train for question in read_questions(self._folder() / name)
        ]
        if unanswered := [question.place for question in found if not question.output.strip()]:
            raise ValueError(f"{unanswered[0]}: its output is empty ({len(unanswered)} such rows)")
        return {"train": [Pair(self._prompt(q), q.output.strip(), q.place) for q in found]}

    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return the questions of every test set."""
        return {
            self._split(name): [
                Prompt(self._prompt(q), q.instruction, (q.answer,), q.place)
                for q in read_questions(self._folder() / test["file"])
            ]
            for name, test in self.tests.items()
        }

    def prompt_for(self, source: str, place: str) -> str:
        """Return a question in its prompt."""
        return self._prompt(Question(source, "", "", "", place))

    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and tokenize; tell of test questions that are trained on, case and white space apart."""
        super().setup(processor, seed=seed, cache_dir=cache_dir)
        trained = {normalize(pair.prompt) for pair in self.read()["train"]}
        counts = {
            name: sum(normalize(p.prompt) in trained for p in asked)
            for name, asked in self.asked.items()
        }
        self._leaked = {name: count for name, count in counts.items() if count}
        for name, count in self._leaked.items():
            log.warning(
                "%d of the %d questions of %s are trained on: its score does not tell how well new ones are answered",
                count,
                len(self.asked[name]),
                name,
            )

    def score_texts(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Return the accuracy on each test set and, of several, ``test/accuracy``, their mean."""
        scores = {}
        for split, written in texts.items():
            right = [correct for _, correct in self._judged(split, written)]
            scores[f"{split}/accuracy"] = sum(right) / len(right)
        if "test/accuracy" not in scores:
            scores["test/accuracy"] = sum(scores.values()) / len(scores)
        return TextScores(scores)

    def write_texts(self, directory: Path, split: str, texts: Sequence[str]) -> list[Path]:
        """Write ``<split>.json`` as LLM-Adapters' evaluator does: instruction, answer, output_pred, pred, flag."""
        rows = [
            {
                "instruction": p.source,
                "answer": p.references[0],
                "output_pred": text,
                "pred": found,
                "flag": correct,
            }
            for p, text, (found, correct) in zip(
                self.asked[split], texts, self._judged(split, texts), strict=True
            )
        ]
        content = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
        return [write_atomically(directory / f"{split}.json", content.encode())]

    def source(self) -> dict[str, str]:
        """Return the folder."""
        return {"source": "directory", "location": str(self._folder())}

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        return {
            **super().describe(),
            "template": self.template,
            "trained_test_questions": self._leaked,
        }

    def _judged(
        self, split: str, texts: Sequence[str]
    ) -> Iterator[tuple[float | str | None, bool]]:
        """What each text answers, and whether that is right."""
        kind = next(
            test["answer"] for name, test in self.tests.items() if self._split(name) == split
        )
        find: Callable[[str], float | str | None]
        if isinstance(kind, list):
            find = lambda text: answers.choice(text, kind)  # noqa: E731
        else:
            find = answers.number if kind == "number" else answers.letter
        for prompt, text in zip(self.asked[split], texts, strict=True):
            found, sought = find(text), prompt.references[0]
            yield found, answers.is_right(found, float(sought) if kind == "number" else sought)

    def _split(self, name: str) -> str:
        return "test" if len(self.tests) == 1 else f"test_{name}"

    def _prompt(self, question: Question) -> str:
        name = f"{self.template}_input" if question.input else self.template
        text = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")
        return text.replace("{instruction}", question.instruction).replace(
            "{input}", question.input
        )

    def _folder(self) -> Path:
        needed = [*self.train, *(test["file"] for test in self.tests.values())]
        return data_folder(self.path, self.folder, needed, self.origin)


def read_questions(file: Path) -> list[Question]:
    """Read GSM8K's JSON lines (question, answer) or a JSON list of instruction, input, output and answer.

    Raises:
        ValueError: the file is neither, or a row lacks a field; told by file and row.
    """
    try:
        content = file.read_text(encoding="utf-8")
        rows = (
            [json.loads(line) for line in content.splitlines()]
            if file.suffix == ".jsonl"
            else json.loads(content)
        )
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    return [_question(row, f"{file}, row {number}") for number, row in enumerate(rows, start=1)]


def _question(row: Any, place: str) -> Question:
    if isinstance(row, dict) and {"question", "answer"} <= row.keys():
        solution = _CALCULATION.sub("", row["answer"])
        final = solution.rpartition("####")[2].replace(",", "").strip()
        return Question(row["question"], "", solution, final, place)
    if isinstance(row, dict) and {"instruction", "output", "answer"} <= row.keys():
        return Question(
            row["instruction"], row.get("input", ""), row["output"], str(row["answer"]), place
        )
    raise ValueError(
        f"{place}: it has neither question and answer, nor instruction, output and answer"
    )
