"""What the console shows of a run, and what it does not."""

import logging
import warnings

import transformers
from rich.console import Console
from rich.table import Table

from rlora.records.record import RunRecord

UNHELPFUL = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists.*",
    ".*Experiment logs directory .* exists.*",
    ".*custom batch sampler.*",
    ".*isinstance.treespec.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*The dirpath has changed from.*",  # BestCheckpoint moves the best epoch along
    ".*will save all targets and predictions in the buffer.*",
    ".*You defined a `validation_step` but have no.*",
)


def print_summary(record: RunRecord, console: Console) -> None:
    """Print what was trained, how well it scored, what it cost and where it lies."""
    run, parameters, training = record.run, record.parameters, record.training
    table = Table(
        title=f"{run.adapter} on {run.task} ({run.model}, seed {run.seed})", show_header=False
    )
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "trained by the adapter",
        f"{parameters.adapter:,} ({parameters.percent:.3g} % of the backbone)",
    )
    table.add_row("trained in the head", f"{parameters.head:,}")
    for name, score in record.scores.items():
        if not name.endswith("/loss"):
            table.add_row(name, f"{score:.4f}")
    for name, reason in record.missing.items():
        table.add_row(name, f"not computed: {reason}")
    if training.epochs:
        speed = f"{training.examples_per_second:.0f} examples/s, {training.tokens_per_second:.0f} tokens/s"
        table.add_row("training", f"{training.epochs} epochs in {training.seconds:.1f} s, {speed}")
    table.add_row("whole run", f"{run.seconds:.1f} s")
    table.add_row("peak memory", _memory(record))
    if record.adapter_file_bytes is not None:
        table.add_row("adapter file", f"{record.adapter_file_bytes / 1e6:.3f} MB")
    table.add_row("run", run.directory)
    console.print(table)


def _memory(record: RunRecord) -> str:
    device = record.environment.peak_device_memory_mib
    host = f"{record.environment.peak_memory_mib:,.0f} MiB"
    return host if device is None else f"{host}, {device:,.0f} MiB on {record.environment.device}"


def quieten() -> None:
    """Keep advice of the libraries, which a user can do nothing about, off the console."""
    transformers.utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in (
        "torchao",
        "torch.utils._pytree",
    ):  # transformers imports it, and it tells of every kernel it lacks
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in UNHELPFUL:
        warnings.filterwarnings("ignore", text)
