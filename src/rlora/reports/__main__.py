"""Compare finished runs: print tables, and write Markdown, LaTeX, CSV, figures or an HTML page."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlora.io.atomic import write_atomically
from rlora.io.command import run_command
from rlora.reports import latex, page, render, terminal, wandb_runs
from rlora.reports.figures import matplotlib_plots
from rlora.reports.load import RunLoader
from rlora.reports.pivot import PivotSpec
from rlora.reports.report import Report, ReportSpec, make_report
from rlora.reports.statistics import INTERVALS
from rlora.reports.watch import watch

EXAMPLES = """examples:
  python -m rlora.reports outputs/multiruns/2026-01-31_12-00-00 --html report.html
  python -m rlora.reports outputs/studies/glue/records.jsonl --baseline lora --plots figures
  python -m rlora.reports outputs/studies/few_shot --reference docs/results/few_shot/records.jsonl
  python -m rlora.reports outputs/runs --rows adapter,adapter.rank --where model=minilm --watch
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="python -m rlora.reports",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_inputs(command.add_argument_group("runs"))
    _add_content(command.add_argument_group("rows, columns and statistics"))
    _add_outputs(command.add_argument_group("output, in addition to the terminal"))
    return command


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "paths",
        nargs="*",
        type=Path,
        help="folders of runs, at any depth, or records.jsonl files",
    )
    add(
        "--wandb",
        metavar="ENTITY/PROJECT[/sweeps/ID]",
        help="add the runs of a Weights & Biases project or sweep",
    )
    add("--where", default="", help="select runs, such as model=minilm,adapter=lora|rlora")
    add(
        "--choose",
        default="",
        help="keep the values of these keys with the best validation score; default: the keys of a "
        "search",
    )
    add(
        "--split",
        choices=["test", "validation"],
        help="default: test, or validation if no run has a test score",
    )
    add(
        "--metric",
        default="",
        help="metrics, such as BLEU,NIST; default: the main metric of each task",
    )
    add(
        "--watch",
        nargs="?",
        type=_seconds,
        const=10.0,
        metavar="SECONDS",
        help="update the scores while runs finish, every SECONDS (10) until Ctrl-C",
    )


def _add_content(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rows", default="adapter", help="keys of the rows, such as adapter,adapter.rank")
    add("--columns", default="task", help="keys of the columns; default: %(default)s")
    add(
        "--compare",
        default="adapter",
        help="key of the paired differences, or key=option,option; default: %(default)s",
    )
    add("--baseline", help="compare with this option only; default: all pairs of options")
    add("--pairs", default="", help="keys that pair runs; default: seed and task.sample_seed")
    add(
        "--interval",
        default="t",
        choices=INTERVALS,
        help="kind of 95%% intervals; default: %(default)s",
    )
    add(
        "--spread",
        default="sd",
        choices=["sd", "interval"],
        help="spread after a mean; default: %(default)s",
    )
    add("--published", default="", help="add scores from papers of models, such as roberta_base")
    add(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="add published records, such as docs/results/few_shot/records.jsonl, as separate "
        "rows; may be repeated",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--title", default=ReportSpec.title, help="title of the page; default: %(default)s")
    add("--markdown", type=Path, metavar="FILE", help="write all tables as Markdown")
    add("--latex", type=Path, metavar="FILE", help="write all tables as LaTeX (booktabs)")
    add("--csv", type=Path, metavar="FILE", help="write one unrounded line per run")
    add("--html", type=Path, metavar="FILE", help="write an offline page of tables and charts")
    add("--plots", type=Path, metavar="FOLDER", help="write figures as PDF and PNG")


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, compare and print; exit with status 1 and one sentence on an invalid argument."""
    options = parser().parse_args(arguments)
    if not options.paths and not options.wandb:
        parser().error("expected a folder of runs, a records.jsonl, or --wandb ENTITY/PROJECT")
    loader, console = RunLoader(options.split, _split(options.metric)), terminal.make_console()

    def make() -> Report:
        extra = wandb_runs.load_wandb_runs(options.wandb) if options.wandb else ()
        loaded, reference = loader.load(options.paths, extra), None
        if options.reference:
            reference = RunLoader(loaded.split, loader.metrics).load(options.reference)
        return make_report(loaded, report_spec(options), reference)

    try:
        if options.watch is not None:
            watch(make, options.watch, console)
        report = make()
        _write(report, options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for table in report.tables:
        console.print(terminal.view(table, console.width))


def report_spec(options: argparse.Namespace) -> ReportSpec:
    """Return the content of the report that the command line asks for."""
    key, _, compared = options.compare.partition("=")
    rows, columns = _split(options.rows), _split(options.columns)
    if len(_split(options.metric)) > 1 and "metric" not in rows + columns:
        columns += ("metric",)  # metrics of several scales share no mean
    return ReportSpec(
        pivot=PivotSpec(rows, columns, _split(options.pairs), options.interval, options.spread),
        compare=key,
        options=_split(compared),
        baseline=options.baseline,
        where=_conditions(options.where),
        choose=_split(options.choose),
        published=_split(options.published),
        title=options.title,
    )


def _write(report: Report, options: argparse.Namespace) -> None:
    outputs: list[tuple[Path | None, Callable[[], str]]] = [
        (options.markdown, lambda: render.markdown(report.tables)),
        (options.latex, lambda: latex.latex(report.tables)),
        (options.csv, lambda: render.csv_text(report.scores)),
        (options.html, lambda: page.html(report)),
    ]
    for file, text in outputs:
        if file is not None:
            write_atomically(file, text().encode())
    if options.plots is not None:
        matplotlib_plots.write(matplotlib_plots.figures(report), options.plots)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is invalid: expected seconds above 0")
    return seconds


def _conditions(text: str) -> dict[str, str]:
    if invalid := [part for part in _split(text) if "=" not in part]:
        raise ValueError(f"--where {invalid[0]} is invalid: expected key=value,key=value")
    return dict(part.split("=", 1) for part in _split(text))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


if __name__ == "__main__":
    run_command(main)
