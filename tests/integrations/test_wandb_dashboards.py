"""The W&B workspace and report, up to the upload."""

import json

import pytest

from rlora.integrations import wandb_dashboards
from rlora.records.record import summary_metrics
from rlora.reports.names import color_of


@pytest.fixture
def sections(tmp_path):
    """The panels of the saved workspace, by section."""
    file = tmp_path / "workspace.json"
    wandb_dashboards.main(["team/rlora", "--out", str(file)])
    workspace = json.loads(file.read_text())
    assert (workspace["entity"], workspace["project"]) == ("team", "rlora")
    bank = workspace["spec"]["section"]["panel_bank_config"]
    return {section["name"]: section["panels"] for section in bank["sections"]}


def test_each_section_has_its_panels(sections):
    types = {name: [panel["view_type"] for panel in panels] for name, panels in sections.items()}
    assert list(types) == ["Scores", "Learning curves", "Search", "Certificates"]
    assert types["Scores"] == ["Bar Chart", "Bar Chart", "Scatter Plot"]
    assert set(types["Learning curves"]) == {"Run History Line Plot"}
    assert "Parallel Coordinates Plot" in types["Search"]
    assert types["Certificates"] == ["Scatter Plot", "Scatter Plot"]


def test_bars_and_curves_are_grouped_by_adapter(sections):
    for panel in (*sections["Scores"][:2], *sections["Learning curves"]):
        assert panel["config"]["group_by"] == "adapter.value"


def test_every_panel_shows_a_number_that_runs_log(sections, record, compose):
    from rlora.config.flatten import flatten

    record.certificate = {"bound": 0.2, "risk": 0.1, "kl": 3.0}
    logged = summary_metrics(record) | dict.fromkeys(wandb_dashboards.CURVES.values())
    pac_bayes = flatten(compose("regularizer=pac_bayes").config)
    for key in wandb_dashboards.SEARCHED:
        assert key in pac_bayes
    text = json.dumps(sections)
    for key in (
        wandb_dashboards.BEST,
        wandb_dashboards.TEST,
        wandb_dashboards.TRAINED,
        "certificate/bound",
        "certificate/risk",
    ):
        assert key in logged
        assert key in text


def _titles(panels):
    return [panel.title for panel in panels if hasattr(panel, "title")]


def test_the_report_has_the_same_panels():
    blocks = wandb_dashboards.report("team", "rlora").blocks
    grids = [block for block in blocks if type(block).__name__ == "PanelGrid"]
    assert [_titles(grid.panels) for grid in grids] == [
        _titles(panels) for panels in wandb_dashboards.panels().values()
    ]
    assert all(grid.runsets[0].groupby == ["config.adapter"] for grid in grids)


def test_an_adapter_has_the_color_of_all_other_reports():
    blocks = wandb_dashboards.report("team", "rlora").blocks
    grids = [block for block in blocks if type(block).__name__ == "PanelGrid"]
    for grid in grids:
        colors = {group.keys[0].value: color for group, color in grid.custom_run_colors.items()}
        assert colors["lora"] == color_of("lora")
        assert {group.runset_name for group in grid.custom_run_colors} == {grid.runsets[0].name}


def test_a_wrong_project_and_a_missing_login_give_one_sentence(monkeypatch):
    with pytest.raises(SystemExit, match="rlora is invalid: expected ENTITY/PROJECT"):
        wandb_dashboards.main(["rlora"])

    class NotLoggedIn:
        def save(self):
            raise RuntimeError("No API key configured.")

    monkeypatch.setattr(wandb_dashboards, "workspace", lambda *_: NotLoggedIn())
    monkeypatch.setattr(wandb_dashboards, "report", lambda *_: NotLoggedIn())
    with pytest.raises(
        SystemExit, match=r"could not be saved to W&B \(No API key configured.\): run wandb login"
    ):
        wandb_dashboards.main(["team/rlora"])
