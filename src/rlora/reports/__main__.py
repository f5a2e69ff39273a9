"""Tables, plots and a page of finished runs: python -m rlora.reports outputs/multiruns/... --html report.html."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlora.io.atomic import write_atomically
from rlora.reports import page, render, wandb_runs
from rlora.reports.figures import matplotlib_plots
from rlora.reports.load import Reader, csv_text
from rlora.reports.pivot import Layout
from rlora.reports.report import Question, Report, report
from rlora.reports.statistics import INTERVALS
from rlora.reports.watch import watch


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m rlora.reports", description=__doc__)
    made.add_argument(
        "paths",
        nargs="*",
        type=Path,
        help="folders of runs, at any depth, or files with a record a line",
    )
    made.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT[/sweeps/ID]",
        help="and runs that lie on Weights & Biases",
    )
    ask = made.add_argument_group("what is asked")
    ask.add_argument(
        "--rows",
        default="adapter",
        help="keys that make a row, such as adapter,adapter.rank (%(default)s)",
    )
    ask.add_argument("--columns", default="task", help="keys that make a column (%(default)s)")
    ask.add_argument(
        "--compare",
        default="adapter",
        help="a key of these, or key=option,option in their order (%(default)s)",
    )
    ask.add_argument("--baseline", help="compare with this option only, instead of each with each")
    ask.add_argument(
        "--pairs",
        default="",
        help="keys that pair the runs of two options (seed, and task.sample_seed)",
    )
    ask.add_argument(
        "--where",
        default="",
        help="only runs with these values, such as model=minilm,adapter=lora|rlora",
    )
    ask.add_argument(
        "--choose", default="", help="keep the values of these keys that are best on validation"
    )
    ask.add_argument(
        "--split", default="test", choices=["test", "validation"], help="(%(default)s)"
    )
    ask.add_argument(
        "--metric",
        default="",
        help="these instead of the task's own, such as BLEU,NIST; key metric of rows or columns",
    )
    ask.add_argument(
        "--interval", default="t", choices=INTERVALS, help="how intervals are made (%(default)s)"
    )
    ask.add_argument(
        "--spread", default="sd", choices=["sd", "interval"], help="beside a mean (%(default)s)"
    )
    ask.add_argument(
        "--published",
        default="",
        help="show published scores of these models, such as roberta_base",
    )
    made.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=10.0,
        metavar="SECONDS",
        help="show the scores while runs finish (10)",
    )
    write = made.add_argument_group("what is written beside the terminal")
    write.add_argument("--title", default=Question.title, help="of the report (%(default)s)")
    write.add_argument("--markdown", type=Path, metavar="FILE", help="all tables as Markdown")
    write.add_argument("--latex", type=Path, metavar="FILE", help="all tables as LaTeX (booktabs)")
    write.add_argument("--csv", type=Path, metavar="FILE", help="all runs, one a line, unrounded")
    write.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page with tables and charts, without a network",
    )
    write.add_argument("--plots", type=Path, metavar="FOLDER", help="figures as PDF and PNG")
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Read, compare, print; a wrong word ends in one sentence and exit status 1."""
    asked = parser().parse_args(words)
    if not asked.paths and not asked.wandb:
        parser().error(
            "name a folder of runs, a file with a record a line, or --wandb ENTITY/PROJECT"
        )
    reader, console = Reader(asked.split, _split(asked.metric)), Console()

    def ask() -> Report:
        more = wandb_runs.found(asked.wandb) if asked.wandb else ()
        return report(reader.read(asked.paths, more), question(asked))

    try:
        if asked.watch is not None:
            watch(ask, asked.watch, console)
        made = ask()
        _write(made, asked)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for sheet in made.sheets:
        console.print(render.terminal(sheet))


def question(asked: argparse.Namespace) -> Question:
    """What the words ask for."""
    key, _, options = asked.compare.partition("=")
    rows, columns = _split(asked.rows), _split(asked.columns)
    if len(_split(asked.metric)) > 1 and "metric" not in rows + columns:
        columns += ("metric",)
    layout = Layout(rows, columns, _split(asked.pairs), asked.interval, asked.spread)
    return Question(
        layout=layout,
        compare=key,
        options=_split(options),
        baseline=asked.baseline,
        where=_conditions(asked.where),
        choose=_split(asked.choose),
        split=asked.split,
        published=_split(asked.published),
        title=asked.title,
    )


def _write(made: Report, asked: argparse.Namespace) -> None:
    texts = {
        asked.markdown: lambda: render.markdown(made.sheets),
        asked.latex: lambda: render.latex(made.sheets),
        asked.csv: lambda: csv_text(made.runs),
        asked.html: lambda: page.html(made),
    }
    for file, text in texts.items():
        if file is not None:
            write_atomically(file, text().encode())
    if asked.plots is not None:
        matplotlib_plots.write(made, asked.plots)


def _conditions(words: str) -> dict[str, str]:
    if wrong := [word for word in _split(words) if "=" not in word]:
        raise ValueError(f"--where {wrong[0]}: conditions are key=value, with commas between them")
    return dict(word.split("=", 1) for word in _split(words))


def _split(words: str) -> tuple[str, ...]:
    return tuple(word for word in words.split(",") if word)


if __name__ == "__main__":
    main()
