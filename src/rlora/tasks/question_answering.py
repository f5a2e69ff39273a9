"""Questions with free-text answers, from which the final answer is extracted: math and commonsense.

Protocol: AGI-Edgerunners/LLM-Adapters@8166572 (Hu et al., EMNLP 2023), finetune.py and evaluate.py.
Prompts: files in `rlora/tasks/prompts`. "alpaca" is the one of tatsu-lab/stanford_alpaca;
"llm_adapters" has the white space of that repository's finetune.py, lines 323-343.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlora.data.locations import data_folder
from rlora.data.questions import Question, final_answer, read_questions
from rlora.data.split_plan import SplitResult
from rlora.data.splits import normalize
from rlora.io.atomic import write_atomically
from rlora.metrics import answers
from rlora.tasks.base import TextScores, has_value
from rlora.tasks.generation import Prompt, PromptedGeneration
from rlora.tasks.language_modeling import Pair

log = logging.getLogger(__name__)

PROMPTS = Path(__file__).parent / "prompts"


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
        if not self.tests:
            raise ValueError("task.tests={} is invalid: expected at least one test set")
        for name, test in self.tests.items():
            if not {"file", "answer"} <= test.keys():
                raise ValueError(f"task.tests.{name} needs the keys file and answer")
            form = test["answer"]
            if isinstance(form, list):
                if not form or not all(isinstance(choice, str) and choice for choice in form):
                    raise ValueError(
                        f"task.tests.{name}.answer={form} is invalid: expected a list of choices; "
                        'quote each, as in ["true", "false"]'
                    )
            elif form not in ("number", "letter"):
                raise ValueError(
                    f"task.tests.{name}.answer={form} is unknown; set it to number, letter or a "
                    "list of choices."
                )

    def read(self) -> dict[str, list[Pair]]:
        """Return every training question with its full answer."""
        folder = self._folder()
        questions = [question for name in self.train for question in read_questions(folder / name)]
        if empty := [question.location for question in questions if not question.output.strip()]:
            raise ValueError(f"{empty[0]}: its output is empty ({len(empty)} such rows)")
        return {"train": [Pair(self._prompt(q), q.output.strip(), q.location) for q in questions]}

    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return the questions of every test set, whose answers have the form of the set."""
        prompts = {}
        for name, test in self.tests.items():
            questions = read_questions(self._folder() / test["file"])
            for question in questions:
                _expected(question.answer, test["answer"], question.location)
            prompts[self._split(name)] = [
                Prompt(self._prompt(q), q.instruction, (q.answer,), q.location) for q in questions
            ]
        return prompts

    def prompt_text(self, source: str, location: str) -> str:
        """Return a question in its prompt."""
        return self._prompt(Question(source, "", "", "", location))

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the columns of both kinds of rows."""
        return ("question", "instruction", "input", "answer")

    def row_inputs(self, row: Mapping[str, Any], location: str) -> tuple[str, ...]:
        """Return the question: the column `question`, `instruction` or `input`."""
        if "instruction" in row and row.get("input"):
            raise ValueError(
                f"{location}: it has an instruction and an input, expected one of them; join both "
                "under input"
            )
        name = next((name for name in ("question", "instruction") if name in row), "input")
        inputs = super().row_inputs({"input": row[name]} if name in row else row, location)
        if not inputs[0].strip():
            raise ValueError(f"{location}: its {name} is empty")
        return inputs

    def row_target(self, row: Mapping[str, Any], location: str) -> str | None:
        """Return the final answer, from the column `answer`; it has the form of a test set."""
        if not has_value(row, "answer"):
            return None
        answer = final_answer(row, location)
        self._form(answer, location)
        return answer

    def score_rows(
        self, inputs: Sequence[tuple[str, ...]], targets: Sequence[str], predictions: Sequence[str]
    ) -> TextScores:
        """Return the accuracy of the final answers."""
        correct = [
            _judged(text, target, self._form(target, "answer"), "answer")[1]
            for target, text in zip(targets, predictions, strict=True)
        ]
        return TextScores({"accuracy": sum(correct) / len(correct)})

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
                    "output_pred": answers.response(output),
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
        return [
            _judged(output, prompt.references[0], form, prompt.location)
            for prompt, output in zip(self.test_prompts[split], outputs, strict=True)
        ]

    def _form(self, answer: str, location: str) -> str | list[str]:
        """Return the form of the first test set that a reference answer has."""
        errors = []
        for test in self.tests.values():
            try:
                _expected(answer, test["answer"], location)
            except ValueError as error:
                errors.append(error)
            else:
                form: str | list[str] = test["answer"]
                return form
        raise errors[0]

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


def _judged(
    output: str, reference: str, form: str | list[str], location: str
) -> tuple[float | str | None, bool]:
    """Return the final answer of an output, and whether it is correct."""
    answer = _extract(answers.response(output), form, reference)
    return answer, answers.is_correct(answer, _expected(reference, form, location))


def _extract(output: str, form: str | list[str], reference: str) -> float | str | None:
    """Return the final answer in an output, for a reference answer of this form."""
    if isinstance(form, list):
        return answers.choice(output, form)
    return answers.letter(output) if form == "letter" else answers.number_like(reference, output)


def _expected(answer: str, form: str | list[str], location: str) -> float | str:
    """Return the value of a reference answer.

    Raises:
        ValueError: The answer does not have this form.
    """
    if form == "number":
        try:
            return answers.parse_number(answer)
        except ValueError as error:
            raise ValueError(
                f"{location}: {error}, expected one such as 18, -1.5, 1,234, $18, 50% or 3/4 "
                "(in GSM8K's rows after ####); correct the file"
            ) from None
    allowed = answers.LETTERS if form == "letter" else form
    if answer not in allowed:
        raise ValueError(
            f"{location}: the answer {answers.shortened(answer)!r} is none of "
            f"{', '.join(allowed)}; correct the file"
        )
    return answer
