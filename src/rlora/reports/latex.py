"""Tables for a paper in LaTeX, with booktabs."""

import textwrap
from collections.abc import Sequence

from rlora.reports.names import display_name
from rlora.reports.render import marked, sentences
from rlora.reports.tables import Table

HEADER_WIDTH = 12  # characters of a line in the header
LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
}


def latex(tables: Sequence[Table]) -> str:
    """Return a LaTeX `table` environment per table; the document needs the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    rows = [
        marked(table, number, _cells(table, row), r"\textbf{{{}}}")
        for number, row in enumerate(table.rows)
    ]
    notes = " ".join(f"{sentence}." for sentence in sentences(table))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.title)}.}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(_header(table)) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {escape_latex(notes)}}}",
            r"\end{table}",
            "",
        ]
    )


def _cells(table: Table, row: Sequence[str]) -> list[str]:
    return [
        escape_latex(display_name(text) if number < table.text_columns else text)
        for number, text in enumerate(row)
    ]


def _header(table: Table) -> list[str]:
    """Return the titles of the columns; those of numbers break between words."""
    titles = []
    for number, name in enumerate(map(display_name, table.header)):
        lines = [name] if number < table.text_columns else textwrap.wrap(name, HEADER_WIDTH)
        text = r"\\".join(map(escape_latex, lines))
        titles.append(rf"\shortstack[r]{{{text}}}" if len(lines) > 1 else text)
    return titles


def escape_latex(text: str) -> str:
    """Return text with the special characters of LaTeX escaped."""
    return "".join(LATEX.get(character, character) for character in text)
