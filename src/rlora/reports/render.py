"""Sheets written for the terminal, as Markdown, and as LaTeX."""

from collections.abc import Sequence

from rich.table import Table

from rlora.reports.tables import Sheet

LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
}
LATEX |= {
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
}


def terminal(sheet: Sheet) -> Table:
    """A table for rich."""
    table = Table(title=sheet.title, caption="\n".join(sheet.notes), caption_justify="left")
    for number, title in enumerate(sheet.header):
        table.add_column(
            title, justify="left" if number < sheet.words else "right", overflow="fold"
        )
    for number, row in enumerate(sheet.rows):
        cells = [text.replace("[", r"\[") for text in row]  # no markup
        table.add_row(
            *(
                f"[bold]{cell}[/]" if (number, i) in sheet.bold else cell
                for i, cell in enumerate(cells)
            )
        )
    return table


def markdown(sheets: Sequence[Sheet], heading: str = "##") -> str:
    """A section for each sheet."""
    return "\n".join(_section(sheet, heading) for sheet in sheets)


def _section(sheet: Sheet, heading: str) -> str:
    rule = ["---" if number < sheet.words else "--:" for number in range(len(sheet.header))]
    rows = [
        [f"**{t}**" if (n, i) in sheet.bold else t for i, t in enumerate(row)]
        for n, row in enumerate(sheet.rows)
    ]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in (sheet.header, rule, *rows)
    ]
    notes = [f"{note[:1].upper()}{note[1:]}." for note in sheet.notes]
    return "\n".join([f"{heading} {sheet.title}", "", *lines, "", *notes, ""])


def latex(sheets: Sequence[Sheet]) -> str:
    """A table environment for each sheet; needs the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(map(_tabular, sheets))


def _tabular(sheet: Sheet) -> str:
    columns = "l" * sheet.words + "r" * (len(sheet.header) - sheet.words)
    body = [
        [
            rf"\textbf{{{escaped(t)}}}" if (n, i) in sheet.bold else escaped(t)
            for i, t in enumerate(row)
        ]
        for n, row in enumerate(sheet.rows)
    ]
    lines = [" & ".join(row) + r" \\" for row in body]
    caption = (
        ". ".join([sheet.title, *(f"{note[:1].upper()}{note[1:]}" for note in sheet.notes)]) + "."
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escaped, sheet.header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Text with LaTeX's special characters written out."""
    return "".join(LATEX.get(character, character) for character in text)
