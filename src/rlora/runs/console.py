"""The console output of a run: lines at its start, a table at its end, hidden warnings."""

import logging
import warnings

import torch
import transformers
from rich.console import Console
from rich.table import Table

from rlora.records.record import RunRecord
from rlora.runs.assemble import Parts

# Warnings of libraries that a user cannot act on and that no argument avoids, each with the reason.
HIDDEN_WARNINGS = (
    # Lightning counts workers; tokenized rows need none, and processes would only slow the start
    ".*does not have many workers.*",
    # Lightning's checkpoints and CSV logger: the run folder exists, because config.yaml is written
    # first
    ".*Checkpoint directory .* exists.*",
    ".*Experiment logs directory .* exists.*",
    # Lightning cannot shard a batch sampler; rlora's own sampler shards itself
    ".*custom batch sampler.*",
    # Lightning calls a function that PyTorch deprecates
    ".*isinstance.treespec.*",
    # Lightning logs every n-th step; shorter epochs are logged by epoch
    ".*number of training batches .* is smaller than the logging interval.*",
    # a run resumed in another folder: BestCheckpoint copies the best epoch there
    ".*The dirpath has changed from.*",
    # torchmetrics' correlations need all predictions of a split, which are small
    ".*will save all targets and predictions in the buffer.*",
    # debug=overfit removes the validation on purpose
    ".*You defined a `validation_step` but have no.*",
)
# Loggers of libraries whose messages at lower levels concern no user.
QUIET_LOGGERS = {
    # device counts, tips and links at each start; the six lines of rlora say the same
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.seed": logging.WARNING,
    # transformers imports torchao, which reports every kernel that it lacks
    "torchao": logging.ERROR,
    # Lightning's deprecated calls, as above
    "torch.utils._pytree": logging.ERROR,
}


def quieten() -> None:
    """Hide the messages of libraries that a user cannot act on; all others stay."""
    transformers.utils.logging.disable_progress_bar()
    # Lightning adds a handler, and Hydra's handler prints the same message once more
    logging.getLogger("lightning").handlers.clear()
    for name, level in QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    for pattern in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", pattern)


def print_start(parts: Parts, folder: str, console: Console) -> None:
    """Print six lines: backbone, adapter, task, regularizer, device and run folder."""
    choices, trainer = parts.plan.choices, parts.trainer
    report, rows = parts.adapters.report(), parts.task.describe().get("rows", {})
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    devices = name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"
    lines = {
        "backbone": f"{choices.get('model', '')}, {report.backbone:,} parameters "
        f"({parts.backbone.source})",
        "adapter": f"{choices.get('adapter', '')}, {report.adapter:,} trainable parameters "
        f"({report.percent:.3g} % of the backbone), {report.head:,} in the head",
        "task": f"{choices.get('task', '')}, rows: "
        + ", ".join(f"{split} {number:,}" for split, number in rows.items()),
        "regularizer": choices.get("regularizer", ""),
        "device": f"{devices}, precision {trainer.precision}",
        "run folder": folder,
    }
    for label, text in lines.items():
        _print_line(console, label, text)


def print_summary(record: RunRecord, console: Console) -> None:
    """Print what was trained, its scores, its costs and its folder."""
    run, parameters, training = record.run, record.parameters, record.training
    title = f"{run.adapter} on {run.task} ({run.model}, seed {run.seed})"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    table.add_row(
        "trainable parameters (adapter)",
        f"{parameters.adapter:,} ({parameters.percent:.3g} % of the backbone)",
    )
    table.add_row("trainable parameters (head)", f"{parameters.head:,}")
    for name, score in record.scores.items():
        if not name.endswith("/loss"):
            table.add_row(name, f"{score:.4f}")
    for name, reason in record.missing.items():
        table.add_row(name, f"not computed: {reason}")
    if training.epochs:
        table.add_row(
            "training",
            f"{training.epochs} epoch{'s'[: training.epochs != 1]} in {training.seconds:.1f} s",
        )
        speed = f"{training.examples_per_second:.0f} examples/s"
        table.add_row("speed", f"{speed}, {training.tokens_per_second:.0f} tokens/s")
    table.add_row("whole run", f"{run.seconds:.1f} s")
    table.add_row("peak memory", _memory(record))
    if record.adapter_file_bytes is not None:
        table.add_row("adapter file", f"{record.adapter_file_bytes / 1e6:.3f} MB")
    console.print(table)
    _print_line(console, "run folder", run.directory)  # outside the table, which would truncate it


def _print_line(console: Console, label: str, text: str) -> None:
    """Print a label and a text of any length on one line, which the terminal may wrap."""
    console.print(f"{label:<12} {text}", soft_wrap=True, highlight=False, markup=False, emoji=False)


def _memory(record: RunRecord) -> str:
    device = record.environment.peak_device_memory_mib
    host = f"{record.environment.peak_memory_mib:,.0f} MiB"
    return host if device is None else f"{host}, {device:,.0f} MiB on {record.environment.device}"
