"""The results as a Markdown page of tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report_parts import PARTS
from benchmarks.report_tables import table
from benchmarks.results import Document, differing_facts


def markdown(document: Document, stem: str) -> str:
    """Return the page of a document whose files have the name `stem`."""
    sections = document["sections"]
    lines = [f"# Speed and size on {device_of(document)}", "", *_preface(document, stem), ""]
    if sections:
        lines += ["## Environment", "", *_environment(sections), ""]
    for name, section in sections.items():
        title, write = PARTS[name]
        lines += [f"## {title}", ""]
        if section["status"] == "failed":
            lines += [f"This part failed: `{section['error']}`.", ""]
        else:
            if section["status"] == "incomplete":
                lines += ["Some measurements of this part failed; the tables show which.", ""]
            lines += [*write(section["result"], section["settings"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def device_of(document: Document) -> str:
    """Return the name of the device, or its type if nothing is measured yet."""
    names = [section["environment"]["device"] for section in document["sections"].values()]
    return names[0] if names else document["device"]


def _preface(document: Document, stem: str) -> list[str]:
    quick = [
        "**These are `--quick` measurements of tiny shapes. They only show that the code runs.**",
        "",
    ]
    return [
        *(quick if document["quick"] else []),
        f"`{_command(document)}` measures every number on this page; none is from a publication.",
        f"It also writes `{stem}.json` (settings and the time of every round) and the plot. The",
        "backbones have random weights. Lower is better, except for throughput. Candidates of a",
        "comparison run in one process and take turns, and the first place rotates. A ratio is a",
        "ratio of medians; *by rounds* is the median of the ratios within each round.",
        "",
        f"![plot]({stem}.png)",
    ]


def _command(document: Document) -> str:
    parts = [
        "python -m benchmarks",
        f"--device {document['device']}",
        *(["--quick"] if document["quick"] else []),
    ]
    return " ".join(parts)


def _environment(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    differing = differing_facts(sections)
    first = next(iter(sections.values()))["environment"]
    rows = [
        (_label(fact), _cell(value))
        for fact, value in first.items()
        if fact not in {*differing, *PER_PART}
    ]
    lines = [*table(("", ""), rows), ""]
    parts = [
        (
            f"`{name}`",
            s["started"],
            f"{s['seconds']:.0f} s",
            f"`{s['command']}`",
            *_part_facts(s["environment"]),
        )
        for name, s in sections.items()
    ]
    lines += table(("part", "started", "duration", "command", "commit", "load before"), parts)
    if differing:
        lines += ["", "**The parts were not measured under the same conditions:**", ""]
        for fact, values in differing.items():
            by_part = "; ".join(f"`{name}` {_cell(value)}" for name, value in values.items())
            lines.append(f"- {_label(fact)}: {by_part}")
    return lines


PER_PART = ("git_commit", "git_dirty", "load_average")


def _part_facts(environment: Mapping[str, Any]) -> Sequence[str]:
    commit = environment["git_commit"]
    changed = " with changes" if environment["git_dirty"] else ""
    return (
        f"{commit[:10]}{changed}" if commit else "unknown",
        f"{environment['load_average']:.2f}",
    )


def _label(fact: str) -> str:
    return fact.replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
