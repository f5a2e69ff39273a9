"""Questions with free-text answers, from which the final answer is extracted: math and commonsense.

Protocol: AGI-Edgerunners/LLM-Adapters@8166572 (Hu et al., EMNLP 2023), finetune.py and evaluate.py.
Prompts: files in `rlora/tasks/prompts`. "alpaca" is the one of tatsu-lab/stanford_alpaca;
"llm_adapters" has the white space of that repository's finetune.py, lines 323-343.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlora.data.locations import data_folder
from rlora.data.split_plan import SplitResult
from rlora.data.splits import normalize
from rlora.io.atomic import write_atomically
from rlora.metrics import answers
from rlora.tasks.base import TextScores
from rlora.tasks.generation import Prompt, PromptedGeneration
from rlora.tasks.language_modeling import Pair

log = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "prompts"
_CALCULATION = re.compile(r"<<[^>]*>>")  # GSM8K's calculator annotations


@dataclass(frozen=True)
class Question:
    """One row of a file.

    Attributes:
        instruction: The question.
        input: Text that the question refers to, or "".
        output: The answer in full, with its reasoning.
        answer: The final answer.
        location: File and row.
    """

    instruction: str
    input: str
    output: str
    answer: str
    location: str


@dataclass(kw_only=True, eq=False)
class QuestionAnswering(PromptedGeneration):
    """Instruction tuning on questions, scored by the accuracy of the final answers.

    Attributes:
        train: Training files, see `read_questions`.
        tests: Test sets by name: `file`, and `answer`: "number", "letter" or a list of choices.
        template: Name of a prompt in `rlora/tasks/prompts`.
        folder: Name of the files' folder below `$RLORA_DATA`.
        origin: Where to download the files, for messages.

    Raises:
        ValueError: A setting is unknown.
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
        stems = sorted(file.stem for file in PROMPTS.glob("*.txt"))
        templates = [stem for stem in stems if not stem.endswith("_input")]
        if self.template not in templates:
            raise ValueError(
                f"task.template={self.template} is unknown; "
                f"set task.template to one of {templates}."
            )
        for name, test in self.tests.items():
            if not isinstance(test["answer"], list) and test["answer"] not in ("number", "letter"):
                raise ValueError(
                    f"task.tests.{name}.answer={test['answer']} is unknown; set it to number, "
                    "letter or a list of choices."
                )

    def read(self) -> dict[str, list[Pair]]:
        """Return every training question with its full answer."""
        folder = self._folder()
        questions = [question for name in self.train for question in read_questions(folder / name)]
        if empty := [question.location for question in questions if not question.output.strip()]:
            raise ValueError(f"{empty[0]}: its output is empty ({len(empty)} such rows)")
        return {"train": [Pair(self._prompt(q), q.output.strip(), q.location) for q in questions]}

    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return the questions of every test set."""
        return {
            self._split(name): [
                Prompt(self._prompt(q), q.instruction, (q.answer,), q.location)
                for q in read_questions(self._folder() / test["file"])
            ]
            for name, test in self.tests.items()
        }

    def prompt_text(self, source: str, location: str) -> str:
        """Return a question in its prompt."""
        return self._prompt(Question(source, "", "", "", location))

    def read_splits(self, processor: Any) -> SplitResult:
        """Read the splits, and count the test questions that are in the training files.

        Two questions are the same if they differ only in case and white space.
        """
        result = super().read_splits(processor)
        trained = {normalize(prompt) for prompt in self._locations}
        self._leaked = {}
        for split, prompts in self.test_prompts.items():
            if count := sum(normalize(prompt.text) in trained for prompt in prompts):
                self._leaked[split] = count
                log.warning(
                    "%d of the %d questions of %s are in the training data: its score does not "
                    "measure how well the model answers new questions",
                    count,
                    len(prompts),
                    split,
                )
        return result

    def score(self, texts: Mapping[str, Sequence[str]]) -> TextScores:
        """Return the accuracy per test set and, of several sets, their mean `test/accuracy`."""
        scores = {}
        for split, outputs in texts.items():
            correct = [is_correct for _, is_correct in self._judge(split, outputs)]
            scores[f"{split}/accuracy"] = sum(correct) / len(correct)
        if "test/accuracy" not in scores:
            scores["test/accuracy"] = sum(scores.values()) / len(scores)
        return TextScores(scores)

    def write(self, texts: Mapping[str, Sequence[str]], directory: Path) -> list[Path]:
        """Write `<split>.json` in the format of LLM-Adapters' evaluator.

        Its keys are instruction, answer, output_pred, pred and flag.
        """
        files = []
        for split, outputs in texts.items():
            judged = self._judge(split, outputs)
            rows = [
                {
                    "instruction": prompt.source,
                    "answer": prompt.references[0],
                    "output_pred": output,
                    "pred": answer,
                    "flag": is_correct,
                }
                for prompt, output, (answer, is_correct) in zip(
                    self.test_prompts[split], outputs, judged, strict=True
                )
            ]
            content = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
            files.append(write_atomically(directory / f"{split}.json", content.encode()))
        return files

    def input_files(self) -> list[Path]:
        """Return the files of questions, and the prompts."""
        prompts = [PROMPTS / f"{name}.txt" for name in (self.template, f"{self.template}_input")]
        return [*(self._folder() / name for name in self._file_names()), *prompts]

    def source(self) -> dict[str, str]:
        """Return the folder of the files."""
        return {"source": "directory", "location": str(self._folder())}

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        return {
            **super().describe(),
            "template": self.template,
            "trained_test_questions": self._leaked,
        }

    def _judge(self, split: str, outputs: Sequence[str]) -> list[tuple[float | str | None, bool]]:
        """Return the final answer of each output, and whether it is correct."""
        form = next(
            test["answer"] for name, test in self.tests.items() if self._split(name) == split
        )
        extract: Callable[[str], float | str | None]
        if isinstance(form, list):
            extract = partial(answers.choice, choices=form)
        else:
            extract = answers.number if form == "number" else answers.letter
        judged = []
        for prompt, output in zip(self.test_prompts[split], outputs, strict=True):
            answer, reference = extract(output), prompt.references[0]
            expected = float(reference) if form == "number" else reference
            judged.append((answer, answers.is_correct(answer, expected)))
        return judged

    def _split(self, name: str) -> str:
        return "test" if len(self.tests) == 1 else f"test_{name}"

    def _prompt(self, question: Question) -> str:
        name = f"{self.template}_input" if question.input else self.template
        template = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")
        prompt = template.replace("{instruction}", question.instruction)
        return prompt.replace("{input}", question.input)

    def _file_names(self) -> list[str]:
        return [*self.train, *(test["file"] for test in self.tests.values())]

    def _folder(self) -> Path:
        return data_folder(self.path, self.folder, self._file_names(), self.origin)


def read_questions(file: Path) -> list[Question]:
    """Read the questions of a file.

    It holds GSM8K's JSON lines (question, answer) or a JSON list (instruction, input, output,
    answer).

    Raises:
        ValueError: The file is neither, or a row lacks a field; the message names file and row.
    """
    try:
        content = file.read_text(encoding="utf-8")
        one_per_line = file.suffix == ".jsonl"
        lines = content.splitlines() if one_per_line else [content]
        values = [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    rows = values if one_per_line else values[0]
    return [_question(row, f"{file}, row {number}") for number, row in enumerate(rows, start=1)]


def _question(row: Any, location: str) -> Question:
    if isinstance(row, dict) and {"question", "answer"} <= row.keys():
        solution = _CALCULATION.sub("", row["answer"])
        answer = solution.rpartition("####")[2].replace(",", "").strip()
        return Question(row["question"], "", solution, answer, location)
    if isinstance(row, dict) and {"instruction", "output", "answer"} <= row.keys():
        answer = str(row["answer"])
        return Question(row["instruction"], row.get("input", ""), row["output"], answer, location)
    raise ValueError(
        f"{location}: expected the keys question and answer, or instruction, output and answer"
    )
