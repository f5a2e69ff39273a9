"""The results as a Markdown page: tables of what was measured, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report_parts import PARTS
from benchmarks.report_tables import table
from benchmarks.results import Document, differing_facts


def markdown(document: Document, stem: str) -> str:
    """The page of a document whose files are called `stem`."""
    sections = document["sections"]
    lines = [f"# Speed and size on {device_of(document)}", "", *_preface(document, stem), ""]
    if sections:
        lines += ["## Where", "", *_environment(sections), ""]
    for name, section in sections.items():
        title, write = PARTS[name]
        lines += [f"## {title}", ""]
        if section["status"] == "failed":
            lines += [f"This part failed: `{section['error']}`", ""]
        else:
            if section["status"] == "incomplete":
                lines += ["Some of this part failed, as its tables say.", ""]
            lines += [*write(section["result"], section["settings"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def device_of(document: Document) -> str:
    """The device's name, or its kind where nothing was measured yet."""
    names = [section["environment"]["device"] for section in document["sections"].values()]
    return names[0] if names else document["device"]


def _preface(document: Document, stem: str) -> list[str]:
    quick = [
        "**These are `--quick` measurements of tiny shapes: they show that the code runs, no more.**",
        "",
    ]
    return [
        *(quick if document["quick"] else []),
        f"Made by `{_command(document)}`, which also writes `{stem}.json` (settings, and every single round) and the",
        "plot. Every number here was measured by that command; none is taken from a publication. The backbones have",
        "random weights. Lower is better except for throughput. What is compared ran in one process and took turns,",
        "the first place going round; a ratio is one of medians, *by rounds* the median of the rounds' own ratios.",
        "",
        f"![plot]({stem}.png)",
    ]


def _command(document: Document) -> str:
    words = [
        "python -m benchmarks",
        f"--device {document['device']}",
        *(["--quick"] if document["quick"] else []),
    ]
    return " ".join(words)


def _environment(sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    differing = differing_facts(sections)
    first = next(iter(sections.values()))["environment"]
    rows = [
        (_label(fact), _told(value))
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
            *_own_facts(s["environment"]),
        )
        for name, s in sections.items()
    ]
    lines += table(("part", "begun", "took", "command", "commit", "load before"), parts)
    if differing:
        lines += ["", "**The parts were not measured under the same conditions:**", ""]
        for fact, values in differing.items():
            told = "; ".join(f"`{name}` {_told(value)}" for name, value in values.items())
            lines.append(f"- {_label(fact)}: {told}")
    return lines


PER_PART = ("git_commit", "git_dirty", "load_average")


def _own_facts(environment: Mapping[str, Any]) -> Sequence[str]:
    commit = environment["git_commit"]
    changed = " and changes" if environment["git_dirty"] else ""
    return (
        f"{commit[:10]}{changed}" if commit else "unknown",
        f"{environment['load_average']:.2f}",
    )


def _label(fact: str) -> str:
    return fact.replace("_", " ")


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
