"""One self-contained page: sortable tables and interactive charts, without a network."""

import base64
import datetime
import gzip
import json
from importlib import resources

from rlora.reports.figures.vega_charts import specifications
from rlora.reports.load import once
from rlora.reports.report import Report

TEMPLATE = "page.html"


def html(report: Report) -> str:
    """The page of a report."""
    import jinja2
    import vl_convert

    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).from_string(text)
    charts = specifications(report)
    return template.render(
        title=report.question.title,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        facts=_facts(report),
        sheets=report.sheets,
        charts=list(charts),
        specifications=_in_script(json.dumps(list(charts.values()))),
        vega=_packed(vl_convert.javascript_bundle()),  # type: ignore[call-arg] # its stubs lag behind
    )


def _facts(report: Report) -> list[str]:
    runs = once(report.runs)
    versions = sorted({run.record.environment.versions.get("rlora", "unknown") for run in runs})
    commits = sorted({(run.record.environment.git_commit or "")[:8] for run in runs} - {""})
    days = sorted(run.record.run.started[:10] for run in runs)
    models = sorted({str(run.facts["model"]) for run in runs})
    told = [
        f"{len(runs)} runs",
        f"{days[0]} to {days[-1]}",
        f"model {', '.join(models)}",
        f"rlora {', '.join(versions)}",
    ]
    return told + ([f"commits {', '.join(commits)}"] if len(commits) <= 5 and commits else [])


def _packed(script: str) -> str:
    """The chart library compressed, a third of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("</script", "<\\/script")
