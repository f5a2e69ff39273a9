"""The names and colors of adapters and tasks in pages, figures and LaTeX, assigned once.

The terminal, Markdown and CSV keep the words of the command line, which select runs.
"""

import colorsys
import hashlib
import re

ADAPTERS = {  # by word of the command line: name in text, color in every figure
    "head": ("head only", "#7F7F7F"),
    "bitfit": ("BitFit", "#8C564B"),
    "full": ("full fine-tuning", "#000000"),
    "lora": ("LoRA", "#E69F00"),
    "rlora": ("RLoRA", "#0072B2"),
    "nola": ("NOLA", "#009E73"),
    "randlora": ("RandLoRA", "#D55E00"),
    "vera": ("VeRA", "#CC79A7"),
    "dora": ("DoRA", "#56B4E9"),
    "lora_xs": ("LoRA-XS", "#6A3D9A"),
    "fourierft": ("FourierFT", "#A0A000"),
    "peft": ("PEFT", "#B15928"),
}  # the first seven hues are those of Okabe and Ito (2008), which color-blind readers distinguish
TASKS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
    "e2e": "E2E",
    "dart": "DART",
    "webnlg": "WebNLG",
    "gsm8k": "GSM8K",
    "math": "MATH",
}
NAMES = {**TASKS, **{word: name for word, (name, _) in ADAPTERS.items()}}
SEPARATORS = re.compile(r"(, | − | \()")  # between the words of a label


def display_name(label: str) -> str:
    """Return a label with the names of adapters and tasks as text has them.

    "rlora − lora" becomes "RLoRA − LoRA", and "sst2 (accuracy)" becomes "SST-2 (accuracy)".
    """
    return "".join(NAMES.get(part, part) for part in SEPARATORS.split(label))


def color_of(name: str) -> str:
    """Return the color of an adapter, which is the same in all reports.

    Any other name has a color too, which its digest determines.
    """
    if name in ADAPTERS:
        return ADAPTERS[name][1]
    digest = hashlib.sha256(name.encode()).digest()
    hue, lightness = digest[0] / 256, 0.35 + 0.2 * digest[1] / 256
    return _hex(colorsys.hls_to_rgb(hue, lightness, 0.6))


def shade(color: str, number: int) -> str:
    """Return a lighter shade of a color for the rows of one adapter; number 0 is the color."""
    share = 0.65 * (1 - 0.6**number)  # of white
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return _hex([part + share * (1 - part) for part in parts])


def _hex(parts: "tuple[float, ...] | list[float]") -> str:
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)
