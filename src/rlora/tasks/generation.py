"""Language modeling tasks whose test scores come from generated texts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlora.data.examples import Examples, fingerprint
from rlora.data.packing import end_token
from rlora.data.split_plan import SplitResult
from rlora.tasks.base import GenerationConfig, GenerationTask
from rlora.tasks.language_modeling import LanguageModeling


@dataclass(frozen=True)
class Prompt:
    """A prompt of a test file, with what its text is compared with.

    Attributes:
        text: Text that the model reads.
        source: Its input as the files write it: a meaning representation or a question.
        references: Reference texts.
        location: File and line, for messages.
    """

    text: str
    source: str
    references: tuple[str, ...]
    location: str


@dataclass(kw_only=True, eq=False)
class PromptedGeneration(LanguageModeling, GenerationTask):
    """Language modeling after prompts, tested by texts generated after other prompts.

    Attributes:
        decoding: Settings of the generation, see `GenerationConfig`.
        test_prompts: Prompts of the test files by split; available after `setup`.
    """

    decoding: Mapping[str, Any] | GenerationConfig
    fields = ("input",)
    test_prompts: dict[str, list[Prompt]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.decoding, GenerationConfig):
            self.decoding = GenerationConfig(**self.decoding)

    # Hooks of a task family.

    @abstractmethod
    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return the prompts of the test files by split; names start with `test`.

        Raises:
            ValueError: The data is missing or a row is malformed; the message names file and line.
        """

    @abstractmethod
    def prompt_text(self, source: str, location: str) -> str:
        """Return the prompt of an input that is in no file, written like `Prompt.source`.

        Raises:
            ValueError: The input is malformed; the message starts with the location.
        """

    # The protocol.

    @property
    def generation(self) -> GenerationConfig:
        """Settings of the generation, with the end token."""
        assert isinstance(self.decoding, GenerationConfig)
        if self.decoding.end_token is not None:
            return self.decoding
        return replace(self.decoding, end_token=end_token(self.processor))

    def encode_prompt(self, source: str, location: str) -> list[int]:
        """Return the token ids of a prompt that is in no file."""
        (ids,) = self._encode([self.prompt_text(source, location)])
        self._check_context(ids, location)
        return ids

    def prompts(self) -> dict[str, list[list[int]]]:
        """Return the token ids of the prompts of the test files, by split."""
        return {
            split: self._encode([prompt.text for prompt in prompts])
            for split, prompts in self.test_prompts.items()
        }

    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, up to the end token and without outer white space."""
        kept, end = list(ids), self.generation.end_token
        if end in kept:
            kept = kept[: kept.index(end)]
        text: str = self.processor.decode(kept, skip_special_tokens=True)
        return text.strip()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the prompts, texts and references of all splits."""
        prompts = {
            split: Examples([(prompt.text, *prompt.references) for prompt in prompts])
            for split, prompts in self.test_prompts.items()
        }
        return fingerprint({**prompts, "learned": Examples([(self.prepared.fingerprint,)])})

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        facts = super().describe()
        facts["rows"] |= {split: len(prompts) for split, prompts in self.test_prompts.items()}
        return {**facts, "decoding": self.generation.in_force()}

    def read_splits(self, processor: Any) -> SplitResult:
        """Read the splits and the prompts of the test files.

        Raises:
            ValueError: The data is missing or malformed, or a prompt is too long.
        """
        result = super().read_splits(processor)
        self.processor = processor
        self.test_prompts = self.read_prompts()
        for split, encoded in self.prompts().items():
            for prompt, ids in zip(self.test_prompts[split], encoded, strict=True):
                self._check_context(ids, prompt.location)
        return result

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids that precede each generated text."""
        tokenizer, form = self.processor, self._format(self.processor)
        return [
            form.before_text(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
            for text in texts
        ]

    def _check_context(self, ids: Sequence[int], location: str) -> None:
        """Raise where the model's context has no room for a text after a prompt."""
        new, limit = self.generation.max_new_tokens, self.processor.model_max_length
        if len(ids) + new > limit:
            raise ValueError(
                f"{location}: its prompt has {len(ids)} tokens, which with "
                f"task.decoding.max_new_tokens={new} is more than the {limit} of the "
                "model; shorten it or lower task.decoding.max_new_tokens."
            )
