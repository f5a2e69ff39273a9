"""Take a trained adapter out of this house: python -m rlora.export RUN --format peft --out DIRECTORY."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from rlora.export.hub import push
from rlora.export.write import FORMATS, write
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
    """Write beside the place and move there whole, so that nothing half written is left."""
    if folder.exists():
        raise ValueError(f"--out {folder} exists already: give another place, or remove it")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        name = given.push_to_hub or folder.name
        for note in write(
            load_run(given.run), unfinished, given.format, name, given.rank, not given.no_evaluate
        ):
            print(note)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
