"""The README beside an exported adapter or model: what it is, how it was trained, what it scored, how to load it."""

from rlora.runs.load import TrainedRun

LOADING = {
    "merged": """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")""",
    "peft": """from peft import PeftModel
from transformers import {auto}

model = PeftModel.from_pretrained({auto}.from_pretrained("{base}"{labels}), "{name}")""",
}


def model_card(run: TrainedRun, name: str, form: str, notes: list[str]) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        run: What is exported.
        name: Of the directory, or of the repository on the hub.
        form: "merged" or "peft".
        notes: Sentences on what the export changed.
    """
    choices, config = run.config["choices"], run.config
    report = run.adapters.report()
    base = base_name(run)
    front = [
        "---",
        f"base_model: {base}",
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
    ]
    front += [
        "tags:",
        "- rlora",
        f"- {choices.get('adapter')}",
        f"- {choices.get('task')}",
        "---",
        "",
    ]
    auto = "AutoModelForCausalLM" if run.kind == "text" else "AutoModelForSequenceClassification"
    labels = "" if run.kind == "text" else f", num_labels={run.backbone.model.config.num_labels}"  # type: ignore[union-attr]
    options = ", ".join(
        f"{key}={value}" for key, value in config["adapter"].items() if key != "_target_"
    )
    lines = [
        f"# {choices.get('adapter')} on {choices.get('task')} ({choices.get('model')})",
        "",
        f"Trained with rlora: `{choices.get('adapter')}` ({options}), seed {config['seed']}, on {run.backbone.source}: "
        f"{report.adapter:,} numbers, {report.percent:.3g} % of the backbone, and {report.head:,} in the head.",
        "",
        *(f"{note}\n" for note in notes),
        "```python",
        LOADING[form].format(auto=auto, name=name, base=base, labels=labels),
        "```",
        "",
        *_scores(run),
    ]
    return "\n".join([*front, *lines])


def base_name(run: TrainedRun) -> str:
    """What others load the backbone by: a hub id, or where it lay."""
    return str(
        run.config["model"].get("path") or run.config["model"].get("name") or run.backbone.source
    )


def _scores(run: TrainedRun) -> list[str]:
    if run.record is None:
        return []
    rows = [
        f"| {name} | {score:.4f} |"
        for name, score in run.record.scores.items()
        if not name.endswith("/loss")
    ]
    return ["| score | |", "|---|--:|", *rows, ""]
