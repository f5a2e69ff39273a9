"""A self-contained HTML page: sortable tables and interactive charts, without network access."""

import base64
import datetime
import gzip
import json
from importlib import resources

from rlora.reports.figures import vega_charts
from rlora.reports.load import unique_runs
from rlora.reports.names import display_name
from rlora.reports.provenance import commit_texts
from rlora.reports.report import Report

TEMPLATE = "page.html"


def html(report: Report) -> str:
    """Return the page of a report."""
    import jinja2
    import vl_convert

    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["display"] = display_name
    charts = vega_charts.charts(report)
    panels = [panel for chart in charts for panel in chart.panels]
    return environment.from_string(text).render(
        title=report.spec.title,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        summary=_summary(report),
        tables=report.tables,
        charts=charts,
        legend=vega_charts.named_colors(report),
        specifications=_script_safe(json.dumps(panels)),
        vega=_packed(vl_convert.javascript_bundle()),  # type: ignore[call-arg] # outdated stubs
    )


def _summary(report: Report) -> list[str]:
    """Return number, dates, models, versions and commits of the runs."""
    runs = unique_runs(report.scores)
    versions = sorted({run.record.environment.versions.get("rlora", "unknown") for run in runs})
    days = sorted(run.record.run.started[:10] for run in runs)
    models = sorted({str(run.settings["model"]) for run in runs})
    texts = commit_texts([run.record for run in runs])
    return [
        f"{len(runs)} runs",
        days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        f"model {', '.join(models)}",
        f"rlora {', '.join(versions)}",
        *([f"commit {texts[0]}"] if len(texts) == 1 else [f"{len(texts)} commits"]),
    ]


def _packed(script: str) -> str:
    """Return the chart library compressed to a third of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _script_safe(text: str) -> str:
    """Return text that cannot end the script element around it."""
    return text.replace("</script", "<\\/script")
