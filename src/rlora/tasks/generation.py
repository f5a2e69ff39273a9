"""Tasks whose test is what a model writes after prompts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlora.data.examples import Examples, fingerprint
from rlora.data.packing import Layout
from rlora.tasks.base import Decoding, Pen, Writer
from rlora.tasks.language_modeling import LanguageModeling


@dataclass(frozen=True)
class Prompt:
    """What a text is to be written for.

    Attributes:
        prompt: What the model reads.
        source: What it stands for in files of outputs: a meaning representation, a question.
        references: What the text is compared with.
        place: File and line, for messages.
    """

    prompt: str
    source: str
    references: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class TokenPen(Pen):
    """A task's way of writing, with a tokenizer.

    Attributes:
        decoding: How texts are generated.
        tokenizer: The backbone's.
        layout: What stands around prompt and text.
    """

    decoding: Decoding
    tokenizer: Any
    layout: Layout

    @property
    def settings(self) -> Decoding:
        """How texts are generated."""
        return self.decoding

    @property
    def end_token(self) -> int:
        """The token that ends a text."""
        return self.layout.end

    def before(self, prompt: str) -> list[int]:
        """Return the tokens before a text."""
        return self.layout.before(
            self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        )

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return what tokens say, up to the end token, without white space around."""
        kept = list(tokens)
        kept = kept[: kept.index(self.end_token)] if self.end_token in kept else kept
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        return text.strip()


@dataclass(kw_only=True, eq=False)
class GenerationTask(LanguageModeling, Writer):
    """Language modeling after prompts, tested by texts that are generated after other prompts.

    Attributes:
        decoding: How texts are generated, see `Decoding`.
    """

    decoding: Mapping[str, Any] | Decoding
    fields = ("input",)
    _asked: dict[str, list[Prompt]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.decoding, Decoding):
            self.decoding = Decoding(**self.decoding)

    @abstractmethod
    def read_prompts(self) -> dict[str, list[Prompt]]:
        """Return what is to be written, by splits whose names start with ``test``.

        Raises:
            ValueError: the data is missing, or a row is malformed; told by file and line.
        """

    def setup(self, processor: Any, *, seed: int, cache_dir: Path) -> None:
        """Read, split and tokenize; see the protocol.

        Raises:
            ValueError: the data is missing or malformed, or a prompt is too long.
        """
        before = self._ready
        super().setup(processor, seed=seed, cache_dir=cache_dir)
        if self._ready is not before:
            self._asked = self.read_prompts()
            self._check_context()

    @property
    def asked(self) -> dict[str, list[Prompt]]:
        """What is to be written, by split, known after ``setup``."""
        return self._asked

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the prompts, texts and references of all splits."""
        asked = {
            k: Examples([(p.prompt, *p.references) for p in found])
            for k, found in self.asked.items()
        }
        return fingerprint({**asked, "learned": Examples([(self.ready.fingerprint,)])})

    @property
    def settings(self) -> Decoding:
        """How texts are generated."""
        assert isinstance(self.decoding, Decoding)
        return self.decoding

    @abstractmethod
    def prompt_for(self, source: str, place: str) -> str:
        """Return the prompt of something that is in no file, written as in `Prompt.source`.

        Raises:
            ValueError: it is malformed; begins with `place`.
        """

    def pen(self, tokenizer: Any) -> "TokenPen":
        """How this task writes with a tokenizer; no data of it is needed."""
        return TokenPen(self.settings, tokenizer, Layout.of(tokenizer, parted=self.parted))

    @property
    def end_token(self) -> int:
        """The token that ends a text."""
        return self.ready.layout.end

    def prompts(self) -> dict[str, list[list[int]]]:
        """Return the tokens before each text, by split."""
        pen = self.pen(self.ready.tokenizer)
        return {name: [pen.before(p.prompt) for p in found] for name, found in self.asked.items()}

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return what generated tokens say, up to the end token, without white space around."""
        return self.pen(self.ready.tokenizer).text_of(tokens)

    def describe(self) -> dict[str, Any]:
        """Return sizes, conventions and sources for the run record."""
        facts = super().describe()
        facts["rows"] |= {name: len(found) for name, found in self.asked.items()}
        return {**facts, "decoding": vars(self.settings)}

    def _check_context(self) -> None:
        """Refuse prompts after which the model's context has no room for a text."""
        new, most = self.settings.max_new_tokens, self.ready.tokenizer.model_max_length
        for name, prompts in self.prompts().items():
            for tokens, asked in zip(prompts, self.asked[name], strict=True):
                if len(tokens) + new > most:
                    raise ValueError(
                        f"{asked.place}: its prompt has {len(tokens)} tokens, which with task.decoding.max_new_tokens="
                        f"{new} is more than the {most} of the model; lower the latter."
                    )
