"""Take a trained adapter out of this house: python -m rlora.export RUN --format peft --out DIRECTORY."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from rlora.export.hub import push
from rlora.export.write import FORMATS, write
from rlora.io.atomic import write_folder_atomically
from rlora.runs.console import quieten
from rlora.runs.load import load_run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m rlora.export", description=__doc__)
    made.add_argument("run", type=Path, help="run folder or adapter folder")
    made.add_argument(
        "--format",
        choices=FORMATS,
        default="peft",
        help="an adapter of PEFT, or a whole model (%(default)s)",
    )
    made.add_argument("--out", type=Path, help="directory to write; it must not exist yet")
    made.add_argument(
        "--rank",
        type=int,
        help="with peft: cut each update to its largest singular values, as a LoRA",
    )
    made.add_argument(
        "--no-evaluate", action="store_true", help="with --rank: do not score what the cut loses"
    )
    made.add_argument(
        "--push-to-hub", metavar="NAME", help="upload to the Hugging Face hub, as USER/NAME or NAME"
    )
    made.add_argument(
        "--public", action="store_true", help="with --push-to-hub: let everybody see it"
    )
    return made


def main(words: list[str] | None = None) -> int:
    """Export what the command line names; 1 with one sentence where that cannot be."""
    given = parser().parse_args(words)
    if given.out is None and given.push_to_hub is None:
        parser().error("say where to: --out DIRECTORY, --push-to-hub NAME, or both")
    quieten()
    try:
        with tempfile.TemporaryDirectory() as place, torch.no_grad():
            folder = given.out or Path(place) / "export"
            _write(given, folder)
            if given.push_to_hub:
                print(f"uploaded: {push(folder, given.push_to_hub, public=given.public)}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.out:
        print(f"written: {given.out}")
    return 0


def _write(given: argparse.Namespace, folder: Path) -> None:
    """Write the whole export, or nothing on failure."""
    if folder.exists():
        raise ValueError(f"--out {folder} exists already: give another place, or remove it")
    name = given.push_to_hub or folder.name
    with write_folder_atomically(folder, replace=False) as target:
        for note in write(
            load_run(given.run), target, given.format, name, given.rank, not given.no_evaluate
        ):
            print(note)


if __name__ == "__main__":
    sys.exit(main())
