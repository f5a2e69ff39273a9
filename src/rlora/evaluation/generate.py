"""Text generation after a task's prompts: in batches, streamed to disk, and resumable."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import transformers
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rlora.adapters import AdapterSet
from rlora.io.atomic import write_atomically
from rlora.tasks.base import FIXED_DECODING, GenerationConfig, GenerationTask, TextScores
from rlora.training.module import FineTuning

log = logging.getLogger(__name__)
# Entries of generation_config.json that describe the model and its tokens.
NO_DECODING = {
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "transformers_version",
    "use_cache",
    "_from_model_config",
}


class Generator:
    """Generates texts with an adapted model.

    Args:
        adapters: Return value of `inject`; merged during the generation, where that is possible.
        task: Gives the settings and decodes token ids.
        device: Device of the computation.
        precision: Precision plugin of the trainer, for the dtype of the forward passes.
        console: Console of the progress bar.
    """

    def __init__(
        self,
        adapters: AdapterSet,
        task: GenerationTask,
        *,
        device: torch.device,
        precision: Precision,
        console: Console,
    ) -> None:
        self.adapters, self.task = adapters, task
        self.device, self.precision = device, precision
        self.console = console
        self.config: GenerationConfig = task.generation

    def generate(
        self, split: str, prompts: Sequence[Sequence[int]], file: Path, earlier: Path | None = None
    ) -> list[str]:
        """Return one text per prompt, in order, and append each batch to `file` (JSON lines).

        Texts that the file has of the same weights, prompts and settings are not generated again.

        Args:
            split: Name of the prompts, for the progress bar.
            prompts: Token ids of each prompt.
            file: File of the texts.
            earlier: File of an earlier run, used where `file` has no texts.
        """
        key = self._key(prompts)
        texts = _read_texts(file, key, len(prompts))
        if not texts and earlier is not None:
            texts = _read_texts(earlier, key, len(prompts))
        missing = [row for row in range(len(prompts)) if row not in texts]
        if len(missing) < len(prompts):
            log.info("%s: reusing %d of %d texts", split, len(texts), len(prompts))
        if missing:
            # Longest first: a batch that exceeds the memory fails at once.
            missing.sort(key=lambda row: -len(prompts[row]))
            with _TextFile(file, key, texts) as stream, self.ready(), self._progress() as bar:
                job = bar.add_task(f"generating {split}", total=len(prompts), completed=len(texts))
                for start in range(0, len(missing), self.config.batch_size):
                    rows = missing[start : start + self.config.batch_size]
                    generated = self.generate_batch([prompts[row] for row in rows])
                    stream.add(dict(zip(rows, generated, strict=True)))
                    bar.advance(job, len(rows))
        return [texts[row] for row in range(len(prompts))]

    @torch.no_grad()
    def generate_batch(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Return one text per prompt of a single batch; call it within `ready`."""
        pad: Any = self.adapters.model.config.pad_token_id  # type: ignore[union-attr]
        width = max(map(len, prompts))
        # Padding on the left, so that every text starts right after its prompt.
        ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        with self.precision.forward_context():
            sequences: Tensor = self.adapters.model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                generation_config=_options(self.config, pad),
            )
        return [self.task.decode_text(row) for row in sequences[:, width:].tolist()]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Keep the model on its device, in evaluation mode and, where possible, merged.

        The decoding options that came with the checkpoint are set aside.
        """
        model: Any = self.adapters.model.to(self.device)
        training, own = model.training, model.generation_config
        model.eval()
        # transformers takes from it all that the options of a call leave unset
        model.generation_config = transformers.GenerationConfig()
        mergeable = self.adapters.mergeable() is None
        merged = self.adapters.merged() if mergeable else contextlib.nullcontext()
        try:
            with merged:
                yield
        finally:
            model.train(training)
            model.generation_config = own

    def _progress(self) -> Progress:
        # a file would get an empty line from every bar
        hidden = not self.console.is_terminal
        return Progress(console=self.console, transient=True, disable=hidden)

    def _key(self, prompts: Sequence[Sequence[int]]) -> str:
        """Return the SHA-256 (hex) of everything that determines the texts."""
        settings = [self.config.in_force(), list(map(list, prompts))]
        digest = hashlib.sha256(json.dumps(settings).encode())
        trained = {**self.adapters.saved_tensors(), **self.adapters.head_parameters()}
        for name, parameter in sorted(trained.items()):
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        digest.update(f"{self.adapters.digest} {self.precision.precision}".encode())
        return digest.hexdigest()


def _options(config: GenerationConfig, pad: int) -> transformers.GenerationConfig:
    """Return transformers' options of a generation."""
    options: dict[str, Any] = dict(FIXED_DECODING)
    if config.beams > 1:  # transformers warns of a length penalty without beams
        options["length_penalty"] = config.length_penalty
    return transformers.GenerationConfig(
        use_cache=True,
        num_beams=config.beams,
        max_new_tokens=config.max_new_tokens,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        eos_token_id=config.end_token,
        pad_token_id=pad,
        **options,
    )


def _log_ignored(model: Any) -> None:
    """Log the decoding options of a checkpoint, which the task's settings replace."""
    own: dict[str, Any] = model.generation_config.to_diff_dict()
    ignored = {key: value for key, value in own.items() if key not in NO_DECODING}
    if ignored:
        log.info("not used: the checkpoint's decoding options %s; task.decoding decides", ignored)


class _TextFile:
    """A file of texts that grows by complete lines; the first line holds the key."""

    def __init__(self, file: Path, key: str, texts: dict[int, str]) -> None:
        self.file, self.key = file, key
        self.texts = texts

    def __enter__(self) -> "_TextFile":
        # Rewrites the whole file, because a killed process may have left half a line.
        content = _line({"key": self.key}) + _lines(self.texts)
        write_atomically(self.file, content.encode())
        self._stream = self.file.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()

    def add(self, texts: dict[int, str]) -> None:
        self.texts |= texts
        self._stream.write(_lines(texts))
        self._stream.flush()
        os.fsync(self._stream.fileno())


def _lines(texts: dict[int, str]) -> str:
    return "".join(_line({"row": row, "text": text}) for row, text in texts.items())


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _read_texts(file: Path, key: str, rows: int) -> dict[int, str]:
    """Return the texts of a file with this key, by row; half a line at the end does not count."""
    if not file.is_file():
        return {}
    texts: dict[int, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            content = json.loads(line)
        except ValueError:
            break
        if number == 0 and content.get("key") != key:
            log.info("%s has texts of another model or other settings; generating again", file)
            return {}
        if number and 0 <= content["row"] < rows:
            texts[content["row"]] = content["text"]
    return texts


def generate_and_score(
    module: FineTuning,
    trainer: L.Trainer,
    folder: Path,
    console: Console,
    earlier: Path | None = None,
) -> TextScores:
    """Generate the texts of all prompts of the module's task, write them, and return their scores.

    With several processes each generates its share, and each scores all texts.

    Args:
        module: The model, its adapters and its task.
        trainer: Gives device, precision and processes.
        folder: Folder of the texts.
        console: Console of the progress bar.
        earlier: Folder of the texts of an interrupted run, to resume from.
    """
    task = module.task
    assert isinstance(task, GenerationTask)
    generator = Generator(
        module.adapter_set,
        task,
        device=trainer.strategy.root_device,
        precision=trainer.precision_plugin,
        console=console,
    )
    _log_ignored(module.adapter_set.model)
    rank, world = trainer.global_rank, trainer.world_size
    texts: dict[str, list[str]] = {}
    for split, prompts in task.prompts().items():
        name = split if world == 1 else f"{split}-{rank}"
        file = f"{name}.jsonl"
        share = generator.generate(
            split, prompts[rank::world], folder / file, earlier / file if earlier else None
        )
        shares = _gather(share, world)
        texts[split] = [shares[row % world][row // world] for row in range(len(prompts))]
    if trainer.is_global_zero:
        task.write(texts, folder)
    return task.score(texts)


def _gather(share: list[str], world: int) -> list[list[str]]:
    """Return the shares of all processes, by rank."""
    if world == 1:
        return [share]
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, share)
    return shares
