"""A self-contained HTML page: sortable tables and interactive charts, without network access."""

import base64
import datetime
import gzip
import json
from importlib import resources

from rlora.reports.figures.vega_charts import specifications
from rlora.reports.load import unique_runs
from rlora.reports.report import Report

TEMPLATE = "page.html"
MOST_COMMITS = 5  # a longer list says nothing


def html(report: Report) -> str:
    """Return the page of a report."""
    import jinja2
    import vl_convert

    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    charts = specifications(report)
    return environment.from_string(text).render(
        title=report.spec.title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        summary=_summary(report),
        tables=report.tables,
        charts=list(charts),
        specifications=_script_safe(json.dumps(list(charts.values()))),
        vega=_packed(vl_convert.javascript_bundle()),  # type: ignore[call-arg] # outdated stubs
    )


def _summary(report: Report) -> list[str]:
    """Return number, dates, models and versions of the runs."""
    runs = unique_runs(report.scores)
    versions = sorted({run.record.environment.versions.get("rlora", "unknown") for run in runs})
    commits = sorted({(run.record.environment.git_commit or "")[:8] for run in runs} - {""})
    days = sorted(run.record.run.started[:10] for run in runs)
    models = sorted({str(run.settings["model"]) for run in runs})
    summary = [
        f"{len(runs)} runs",
        f"{days[0]} to {days[-1]}",
        f"model {', '.join(models)}",
        f"rlora {', '.join(versions)}",
    ]
    if 0 < len(commits) <= MOST_COMMITS:
        summary.append(f"commits {', '.join(commits)}")
    return summary


def _packed(script: str) -> str:
    """Return the chart library compressed to a third of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _script_safe(text: str) -> str:
    """Return text that cannot end the script element around it."""
    return text.replace("</script", "<\\/script")
