"""Texts written by a trained model after a task's prompts: in batches, kept as they come, gone on with after a kill."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rlora.adapters import AdapterSet
from rlora.io.atomic import write_atomically
from rlora.tasks.base import Decoding, Pen, TextScores, Writer
from rlora.training.module import FineTuning

log = logging.getLogger(__name__)


class Generator:
    """Writes texts with a model.

    Args:
        adapters: What `inject` gave for the backbone; merged meanwhile, where that is possible.
        task: How texts are written, what ends one, and what tokens say.
        device: Where to compute.
        precision: The trainer's, for the dtype of the forward passes.
        console: Shows progress.
    """

    def __init__(
        self,
        adapters: AdapterSet,
        task: Pen,
        *,
        device: torch.device,
        precision: Precision,
        console: Console,
    ) -> None:
        self.adapters, self.task = adapters, task
        self.device, self.precision, self.console = device, precision, console
        self.options: Decoding = task.settings

    def write(
        self, split: str, prompts: Sequence[Sequence[int]], file: Path, earlier: Path | None = None
    ) -> list[str]:
        """Return a text per prompt, in order, and keep each in `file` (JSON lines) as soon as its batch is done.

        Texts that the file holds of the same weights, prompts and options are not written again.

        Args:
            split: What the prompts are called, for the progress.
            prompts: Tokens of each.
            file: Where the texts are kept.
            earlier: Another file of the kind, whose texts are taken where `file` has none.
        """
        key = self._key(prompts)
        texts = _kept(file, key, len(prompts)) or (
            _kept(earlier, key, len(prompts)) if earlier else {}
        )
        missing = [row for row in range(len(prompts)) if row not in texts]
        if len(missing) < len(prompts):
            log.info(
                "%s: %d of %d texts are there already",
                split,
                len(prompts) - len(missing),
                len(prompts),
            )
        if missing:
            missing.sort(
                key=lambda row: -len(prompts[row])
            )  # longest first: too little memory shows at once
            with _Kept(file, key, texts) as kept, self.ready(), self._progress() as bar:
                job = bar.add_task(f"writing {split}", total=len(prompts), completed=len(texts))
                for start in range(0, len(missing), self.options.batch_size):
                    rows = missing[start : start + self.options.batch_size]
                    written = self.batch([prompts[row] for row in rows])
                    kept.add(dict(zip(rows, written, strict=True)))
                    bar.advance(job, len(rows))
        return [texts[row] for row in range(len(prompts))]

    @torch.no_grad()
    def batch(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Return a text per prompt, all at once, within `ready`."""
        pad = self.adapters.model.config.pad_token_id  # type: ignore[union-attr]
        width = max(map(len, prompts))
        ids = torch.tensor(
            [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self.device
        )
        seen = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        with self.precision.forward_context():
            found: Tensor = self.adapters.model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=seen,
                do_sample=False,
                use_cache=True,
                num_beams=self.options.beams,
                max_new_tokens=self.options.max_new_tokens,
                no_repeat_ngram_size=self.options.no_repeat_ngram_size,
                eos_token_id=self.task.end_token,
                pad_token_id=pad,
                **(
                    {"length_penalty": self.options.length_penalty}
                    if self.options.beams > 1
                    else {}
                ),
            )
        return [self.task.text_of(row) for row in found[:, width:].tolist()]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The model on its device in evaluation mode, merged where that is possible."""
        model = self.adapters.model.to(self.device)
        training = model.training
        model.eval()
        merged = (
            self.adapters.merged()
            if self.adapters.mergeable() is None
            else contextlib.nullcontext()
        )
        try:
            with merged:
                yield
        finally:
            model.train(training)

    def _progress(self) -> Progress:
        return Progress(console=self.console, transient=True)

    def _key(self, prompts: Sequence[Sequence[int]]) -> str:
        """Digest of all that decides the texts."""
        digest = hashlib.sha256(
            json.dumps(
                [asdict(self.options), self.task.end_token, list(map(list, prompts))]
            ).encode()
        )
        trained = {**self.adapters.adapter_parameters(), **self.adapters.head_parameters()}
        for name, parameter in sorted(trained.items()):
            digest.update(name.encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        digest.update(f"{self.adapters.digest} {self.precision.precision}".encode())
        return digest.hexdigest()


class _Kept:
    """A file of texts that grows by whole lines; its first line says of what."""

    def __init__(self, file: Path, key: str, texts: dict[int, str]) -> None:
        self.file, self.key, self.texts = file, key, texts

    def __enter__(self) -> "_Kept":
        begun = _line({"key": self.key}) + _lines(self.texts)
        write_atomically(self.file, begun.encode())  # a kill may have left half a line
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


def _kept(file: Path, key: str, rows: int) -> dict[int, str]:
    """The texts of a file that was begun with the same key; half a line at its end does not count."""
    if not file.is_file():
        return {}
    texts: dict[int, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            found = json.loads(line)
        except ValueError:
            break
        if number == 0 and found.get("key") != key:
            log.info(
                "%s holds texts of another model, or of other options: they are written anew", file
            )
            return {}
        if number and 0 <= found["row"] < rows:
            texts[found["row"]] = found["text"]
    return texts


def write_and_score(
    module: FineTuning,
    trainer: L.Trainer,
    folder: Path,
    console: Console,
    earlier: Path | None = None,
) -> TextScores:
    """Write all texts that the module's task asks for, in the official formats too, and score them.

    With several processes each writes its share; all of them score all of it.

    Args:
        module: The model, its adapters and its task.
        trainer: Its device, precision and processes.
        folder: Where the texts are written.
        console: Shows progress.
        earlier: Such a folder of a run that was ended, to go on with.
    """
    task = module.task
    assert isinstance(task, Writer)
    generator = Generator(
        module.adapter_set,
        task,
        device=trainer.strategy.root_device,
        precision=trainer.precision_plugin,
        console=console,
    )
    rank, world = trainer.global_rank, trainer.world_size
    texts: dict[str, list[str]] = {}
    for split, prompts in task.prompts().items():
        name = split if world == 1 else f"{split}-{rank}"
        file = f"{name}.jsonl"
        mine = generator.write(
            split, prompts[rank::world], folder / file, earlier / file if earlier else None
        )
        shares = _gathered(mine, world)
        texts[split] = [shares[row % world][row // world] for row in range(len(prompts))]
        if trainer.is_global_zero:
            task.write_texts(folder, split, texts[split])
    return task.score_texts(texts)


def _gathered(mine: list[str], world: int) -> list[list[str]]:
    if world == 1:
        return [mine]
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, mine)
    return shares
