"""W&B dashboards as code: a workspace and a report of a project's runs.

python -m rlora.integrations.wandb_dashboards ENTITY/PROJECT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlora.io.atomic import write_atomically

TITLE = "Adapters compared"
CURVES = {
    f"validation {name}": f"validation/{name}"
    for name in ("accuracy", "matthews", "pearson", "perplexity")
}
CURVES["training loss"] = "train/loss"  # a metric that no task of the project has stays empty
BEST, TEST, TRAINED = "final/validation_score", "final/test_score", "parameters/adapter"
SEARCHED = (
    "optimizer.lr",
    "optimizer.head_lr",
    "adapter.rank",
    "adapter.alpha",
    "regularizer.sigma_adapter",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m rlora.integrations.wandb_dashboards", description=__doc__
    )
    made.add_argument("project", metavar="ENTITY/PROJECT")
    made.add_argument(
        "--out", type=Path, metavar="FILE", help="save nothing, and write the panels as JSON"
    )
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Build both, and save them where W&B's login allows."""
    asked = parser().parse_args(words)
    entity, slash, project = asked.project.partition("/")
    if not (entity and slash and project):
        sys.exit(f"error: {asked.project} must be ENTITY/PROJECT, as in my-team/rlora")
    if asked.out is not None:
        write_atomically(
            asked.out, workspace(entity, project)._to_model().model_dump_json(indent=2).encode()
        )
        return
    try:
        for made in (workspace(entity, project), report(entity, project)):
            made.save()
            print(f"{type(made).__name__.lower()}: {made.url}")
    except Exception as error:  # W&B's client raises many kinds
        sys.exit(
            f"error: {asked.project} could not be saved to W&B ({error}): see wandb login, or look with --out FILE"
        )


def panels() -> dict[str, list[Any]]:
    """Panels by section; runs are grouped by adapter."""
    import wandb_workspaces.reports.v2 as wr

    adapter = wr.Config("adapter")
    bars = [
        wr.BarPlot(title=title, metrics=[metric], groupby=adapter, groupby_rangefunc="stddev")
        for title, metric in (("Test score", TEST), ("Validation score", BEST))
    ]
    against = wr.ScatterPlot(
        title="Score against trained parameters",
        x=wr.SummaryMetric(TRAINED),
        y=wr.SummaryMetric(TEST),
        log_x=True,
    )
    curves = [
        wr.LinePlot(title=title, x="epoch", y=[metric], groupby=adapter, groupby_rangefunc="minmax")
        for title, metric in CURVES.items()
    ]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=adapter)]
    columns += [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log="lr" in key) for key in SEARCHED
    ]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(BEST))]
    search = [
        wr.ParallelCoordinatesPlot(title="Settings and validation score", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=BEST),
    ]
    bound, risk = wr.SummaryMetric("certificate/bound"), wr.SummaryMetric("certificate/risk")
    certificates = [
        wr.ScatterPlot(title="PAC-Bayes bound against the posterior's risk", x=risk, y=bound),
        wr.ScatterPlot(
            title="PAC-Bayes bound against KL",
            x=wr.SummaryMetric("certificate/kl"),
            y=bound,
            log_x=True,
        ),
    ]
    return {
        "Scores": [*bars, against],
        "Learning curves": curves,
        "Search": search,
        "Certificates": certificates,
    }


def workspace(entity: str, project: str) -> Any:
    """The workspace: a section for each question, runs grouped by task and adapter."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name=name, panels=own, is_open=True) for name, own in panels().items()]
    grouped = ws.RunsetSettings(groupby=[ws.Config("task"), ws.Config("adapter")])
    return ws.Workspace(
        entity=entity, project=project, name=TITLE, sections=sections, runset_settings=grouped
    )


def report(entity: str, project: str) -> Any:
    """The report: the same panels under headings, over the finished runs, grouped by adapter."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for name, own in panels().items():
        runs = wr.Runset(
            entity=entity, project=project, name="by adapter", groupby=["config.adapter"]
        )
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=own)]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks)


if __name__ == "__main__":
    main()
