"""W&B dashboards as code, up to the upload."""

import json

import pytest

from rlora.integrations import wandb_dashboards
from rlora.records.record import summary_metrics


@pytest.fixture
def sections(tmp_path):
    """The workspace's sections, as they would be saved: name to panels."""
    wandb_dashboards.main(["team/rlora", "--out", str(tmp_path / "made.json")])
    made = json.loads((tmp_path / "made.json").read_text())
    assert (made["entity"], made["project"]) == ("team", "rlora")
    return {
        each["name"]: each["panels"]
        for each in made["spec"]["section"]["panel_bank_config"]["sections"]
    }


def test_there_is_a_section_for_each_question(sections):
    kinds = {name: [panel["view_type"] for panel in panels] for name, panels in sections.items()}
    assert list(kinds) == ["Scores", "Learning curves", "Search", "Certificates"]
    assert kinds["Scores"] == ["Bar Chart", "Bar Chart", "Scatter Plot"]
    assert set(kinds["Learning curves"]) == {"Run History Line Plot"}
    assert "Parallel Coordinates Plot" in kinds["Search"]
    assert kinds["Certificates"] == ["Scatter Plot", "Scatter Plot"]


def test_bars_and_curves_are_grouped_by_adapter(sections):
    for panel in (*sections["Scores"][:2], *sections["Learning curves"]):
        assert panel["config"]["group_by"] == "adapter.value"


def test_every_number_shown_is_one_that_runs_log(sections, record, compose):
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


def test_the_report_holds_the_same_panels():
    blocks = wandb_dashboards.report("team", "rlora").blocks
    grids = [block for block in blocks if type(block).__name__ == "PanelGrid"]
    ours = [
        [panel.title for panel in own if hasattr(panel, "title")]
        for own in wandb_dashboards.panels().values()
    ]
    assert [
        [panel.title for panel in grid.panels if hasattr(panel, "title")] for grid in grids
    ] == ours
    assert all(grid.runsets[0].groupby == ["config.adapter"] for grid in grids)


def test_wrong_words_and_no_login_end_in_a_sentence(monkeypatch):
    with pytest.raises(SystemExit, match="rlora must be ENTITY/PROJECT"):
        wandb_dashboards.main(["rlora"])

    class NotLoggedIn:
        def save(self):
            raise RuntimeError("No API key configured.")

    monkeypatch.setattr(wandb_dashboards, "workspace", lambda *_: NotLoggedIn())
    monkeypatch.setattr(wandb_dashboards, "report", lambda *_: NotLoggedIn())
    with pytest.raises(
        SystemExit, match=r"could not be saved to W&B \(No API key configured.\): see wandb login"
    ):
        wandb_dashboards.main(["team/rlora"])
