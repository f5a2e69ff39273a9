"""Export a trained run for other software: as a PEFT adapter or as a merged transformers model."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from rlora.export.hub import push
from rlora.export.write import FORMATS, write_export
from rlora.io.atomic import write_folder_atomically
from rlora.io.command import run_command
from rlora.runs.console import quieten
from rlora.runs.load import load_run

EXAMPLES = """examples:
  python -m rlora.export outputs/runs/2026-01-31_12-00-00 --out my-adapter
  python -m rlora.export outputs/runs/2026-01-31_12-00-00 --format merged --out my-model
  python -m rlora.export outputs/runs/2026-01-31_12-00-00 --rank 8 --push-to-hub USER/NAME
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="python -m rlora.export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("run", type=Path, help="run folder or adapter folder")
    content = command.add_argument_group("format")
    content.add_argument(
        "--format",
        choices=FORMATS,
        default="peft",
        help="a PEFT adapter, or a whole transformers model; default: %(default)s",
    )
    content.add_argument(
        "--rank",
        type=int,
        help="with --format peft: truncate each update to its RANK largest singular values and "
        "write a LoRA",
    )
    content.add_argument(
        "--no-evaluate",
        action="store_true",
        help="with --rank: do not compare scores before and after truncation",
    )
    target = command.add_argument_group("target, at least one")
    target.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder to write; must not exist"
    )
    target.add_argument(
        "--push-to-hub",
        metavar="NAME",
        help="upload to the Hugging Face hub as USER/NAME or NAME; log in with `hf auth login`",
    )
    target.add_argument(
        "--public", action="store_true", help="with --push-to-hub: make the repository public"
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run; return 1 and print one sentence if that is impossible."""
    options = parser().parse_args(arguments)
    if options.out is None and options.push_to_hub is None:
        parser().error("expected --out FOLDER, --push-to-hub NAME, or both")
    quieten()
    try:
        with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
            folder = options.out or Path(temporary) / "export"
            _write(options, folder)
            if options.push_to_hub:
                url = push(folder, options.push_to_hub, public=options.public)
                print(f"uploaded: {url}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.out:
        print(f"written: {options.out}")
    return 0


def _write(options: argparse.Namespace, folder: Path) -> None:
    """Write the whole export, or nothing on failure."""
    if folder.exists():
        raise ValueError(f"--out {folder} exists already: choose another folder, or remove it")
    with write_folder_atomically(folder, replace=False) as target:
        notes = write_export(
            load_run(options.run),
            target,
            form=options.format,
            name=options.push_to_hub or folder.name,
            rank=options.rank,
            evaluate=not options.no_evaluate,
        )
    print("".join(f"{note}\n" for note in notes), end="")


if __name__ == "__main__":
    run_command(main)
