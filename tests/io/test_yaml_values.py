"""YAML from elsewhere: what is refused before anything is built."""

import pytest
import yaml

from rlora.io.yaml_values import parse_yaml

# Large enough that what is not refused early takes minutes, or all memory.
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3_000,
        "[" * 3_000 + "]" * 3_000,
        "{a: " * 100_000,
        "\n".join(" " * i + "a:" for i in range(3_000)),
        "- " * 3_000,
        BOMB,
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "&a [" + "&b [" * 98 + "1" + "]" * 98 + ", [*b]]",
        "a: !!python/object/apply:os.system [id]",
        "a: *missing",
        "a: [1",
        "a: 2026-13-45",
        "{[1]: 2}",
        "\t",
        "a: 1\n---\nb: 2\n",
        "x: [" + "1," * 300_000 + "]",
    ],
)
def test_refuses_yaml(text):
    with pytest.raises(ValueError, match=r"^config\.yaml ") as error:
        parse_yaml(text, "config.yaml")
    assert "\n" not in str(error.value)


def test_reads_the_aliases_that_yaml_writes_for_shared_values():
    shared = {"a": [1, 2]}
    text = yaml.safe_dump({"one": shared, "two": shared})
    assert "&" in text
    assert parse_yaml(text, "config.yaml") == {"one": shared, "two": shared}
