"""Every file is written by rlora.io.atomic, or into a folder that it makes."""

import ast

import pytest

WRITERS = {"write_text", "write_bytes", "save_file", "save_pretrained"}
ALLOWED = {
    "adapters/checkpoint.py": "into an atomic folder",
    "export/merged.py": "into an atomic folder",
    "export/write.py": "into an atomic folder",
    "evaluation/generate.py": "appends lines, and drops an incomplete last one",
    "io/atomic.py": "the writer itself",
    "records/environment.py": "resets a counter in /proc",
    "records/study_file.py": "appends lines under a lock, and drops an incomplete last one",
}


def direct_writes(source):
    """Return the lines that call a writer, or open a file for writing."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        modes = [
            v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
        ]
        opens = name == "open" and any(mode[:1] in ("w", "x", "a") for mode in modes)
        if name in WRITERS or opens:
            lines.append(node.lineno)
    return lines


def test_no_module_writes_a_file_directly(root):
    package = root / "src" / "rlora"
    writes = {}
    for file in package.rglob("*.py"):
        if lines := direct_writes(file.read_text()):
            writes[str(file.relative_to(package))] = lines
    assert set(writes) == set(ALLOWED), writes


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.write_text('x')", [1]),
        ("x = 1\nwith path.open('wb') as f: pass", [2]),
        ("open(path, mode='a')", [1]),
        ("path.open('r', encoding='utf-8')", []),
        ("path.read_text()\nopen(path)", []),
    ],
)
def test_the_check_finds_direct_writes(source, lines):
    assert direct_writes(source) == lines
