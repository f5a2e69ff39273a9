"""Round trips through PEFT: every adapter on every family keeps its logits."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from rlora.adapters import inject
from rlora.adapters.peft import Peft
from rlora.export.peft_format import peft_format

TOKENS = torch.arange(20).reshape(2, 10) + 5
FACTORED = ("lora", "rslora", "rlora", "fastfood", "core", "nola", "hadamard", "vera", "lora_xs")
HEADS = {
    "bert": ["classifier.weight", "classifier.bias"],
    "gpt2": ["score.weight"],
    "llama": ["score.weight"],
}
TARGETS = [("q", "v"), "all-linear", ("q", "o", "fc1"), ("v", "up", "down")]
pytestmark = pytest.mark.filterwarnings("ignore")


def write_peft(folder, config, tensors):
    """Write a PEFT adapter and return its folder."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def has_roles(family, targets):
    """Return whether a family has all of these roles."""
    roles = {"bert": {"fc1"}, "gpt2": {"fc1"}, "llama": {"up", "down"}}
    return roles[family] | {"q", "v", "o"} >= set(targets)


def assert_round_trip(expected, fresh, folder, family, kind="classification"):
    """Assert that PEFT and this package load a PEFT adapter with the expected logits."""
    model = PeftModel.from_pretrained(fresh(family, kind), folder).eval()
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
    imported = fresh(family, kind)
    inject(imported, Peft(path=str(folder)), head=HEADS[family] if kind != "text" else [])
    torch.testing.assert_close(imported(TOKENS).logits, expected, rtol=1e-4, atol=1e-5)


def methods_for(family, targets):
    """Return the methods to test.

    The export sees a method only through the factors, rank and scale of its updates. All methods
    run with layers of every shape, and with row blocks of a fused layer. Which layers are adapted
    is tested with a scale that depends on the rank, and with factors that layers share.
    """
    every = targets == "all-linear" or (family, targets) == ("gpt2", ("q", "v"))
    return FACTORED if every else ("rslora", "vera")


CASES = [
    pytest.param(
        family,
        targets,
        method,
        id=f"{family}-{'+'.join(targets) if isinstance(targets, tuple) else targets}-{method}",
    )
    for family in HEADS
    for targets in TARGETS
    if targets == "all-linear" or has_roles(family, targets)
    for method in methods_for(family, targets)
]


@pytest.mark.parametrize(("family", "targets", "method"), CASES)
def test_factored_updates_become_a_lora_that_peft_loads_and_that_can_be_imported(
    trained, fresh, tmp_path, family, targets, method
):
    model = trained(family, method, targets)
    config, tensors = peft_format(model.adapters, kind="classification", base="")
    assert config["peft_type"] == "LORA"
    folder = write_peft(tmp_path / "out", config, tensors)
    assert_round_trip(model.logits, fresh, folder, family)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("bert", ("q", "v")),
        ("bert", "all-linear"),
        ("llama", ("q", "o")),
        ("gpt2", ["c_attn"]),
    ],
)
def test_randlora_becomes_a_peft_randlora_that_can_be_imported(
    trained, fresh, tmp_path, family, targets
):
    model = trained(family, "randlora", targets)
    folder = write_peft(
        tmp_path / "out", *peft_format(model.adapters, kind="classification", base="")
    )
    assert_round_trip(model.logits, fresh, folder, family)


def test_a_language_model_has_no_head(trained, fresh, tmp_path):
    model = trained("gpt2", "rlora", kind="text")
    config, tensors = peft_format(model.adapters, kind="text", base="gpt2")
    assert config["modules_to_save"] is None
    assert config["task_type"] == "CAUSAL_LM"
    folder = write_peft(tmp_path / "out", config, tensors)
    assert_round_trip(model.logits, fresh, folder, "gpt2", "text")


def test_blocks_of_a_fused_layer_become_one_pair(trained):
    model = trained("gpt2", "lora")
    config, tensors = peft_format(model.adapters, kind="classification", base="")
    assert config["target_modules"] == ["c_attn"]
    assert config["fan_in_fan_out"]
    assert config["r"] == 6
    b = tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert b.shape == (96, 6)
    assert not b[32:64].any()  # k is not adapted
    assert not b[:32, 3:].any()
    assert not b[64:, :3].any()


def test_layers_of_several_ranks_have_patterns(trained):
    model = trained("gpt2", "lora", ("q", "v", "o"))
    config, _ = peft_format(model.adapters, kind="classification", base="")
    assert config["r"] == 6
    assert set(config["rank_pattern"].values()) == {3}
    assert config["lora_alpha"] / config["r"] == pytest.approx(5 / 3)
    assert all(value / 3 == pytest.approx(5 / 3) for value in config["alpha_pattern"].values())


def test_target_modules_are_full_names_if_suffixes_select_more_layers(trained):
    model = trained("bert", "lora", ".*layer.0.attention.self.query")
    config, _ = peft_format(model.adapters, kind="classification", base="")
    assert config["target_modules"] == ["bert.encoder.layer.0.attention.self.query"]


def test_row_blocks_of_a_randlora_are_refused(trained):
    model = trained("gpt2", "randlora", ("q", "v"))
    with pytest.raises(ValueError, match="is adapted in parts"):
        peft_format(model.adapters, kind="classification", base="")


@pytest.mark.parametrize(
    ("family", "targets"), [("bert", "all-linear"), ("llama", ("q", "v")), ("gpt2", ["c_attn"])]
)
def test_dora_becomes_a_peft_dora_that_can_be_imported(trained, fresh, tmp_path, family, targets):
    made = trained(family, "dora", targets)
    config, tensors = peft_format(made.adapters, kind="classification", base="")
    assert config["use_dora"]
    folder = write_peft(tmp_path / "out", config, tensors)
    assert_round_trip(made.logits, fresh, folder, family)


def test_row_blocks_of_a_dora_are_refused(trained):
    made = trained("gpt2", "dora", ("q", "v"))
    with pytest.raises(ValueError, match="is adapted in parts"):
        peft_format(made.adapters, kind="classification", base="")


def test_layers_with_different_numbers_of_products_are_refused(trained):
    model = trained("llama", "randlora", ("q", "v"))  # v has 16 rows, q 32
    with pytest.raises(ValueError, match="products of bases and others"):
        peft_format(model.adapters, kind="classification", base="")


def test_full_rank_has_no_factors(trained):
    with pytest.raises(ValueError, match="RandLoRALayer has full rank and no factors"):
        peft_format(
            trained("bert", "randlora").adapters,
            kind="classification",
            base="",
            as_lora=True,
        )


@pytest.mark.parametrize(
    "kind",
    ["LORA", "VERA", "RANDLORA", "FOURIERFT", "IA3", "OFT", "LOHA", "C3A", "VBLORA"],
)
def test_peft_loads_the_adapters_of_its_own_types(fresh, tmp_path, kind):
    options = {
        "VERA": {"r": 4},
        "RANDLORA": {"r": 8},
        "IA3": {"feedforward_modules": []},
        "OFT": {"oft_block_size": 16, "r": 0},
        "C3A": {"block_size": 16},
        "VBLORA": {"r": 2, "num_vectors": 16, "vector_length": 16},
    }
    net = fresh("bert")
    adapters = inject(
        net,
        Peft({"peft_type": kind, **options.get(kind, {})}, targets=["query"]),
        head=HEADS["bert"],
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in (
        *adapters.adapter_parameters().values(),
        *adapters.head_parameters().values(),
    ):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = write_peft(tmp_path / "out", *peft_format(adapters, kind="classification", base=""))
    model = PeftModel.from_pretrained(fresh("bert"), folder).eval()
    torch.testing.assert_close(model(TOKENS).logits, net(TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_a_peft_type_whose_files_may_be_incomplete_is_refused(fresh):
    method = Peft({"peft_type": "SHIRA", "r": 2}, targets=["query"])
    adapters = inject(fresh("bert"), method, head=HEADS["bert"])
    with pytest.raises(
        ValueError,
        match="SHIRA are not known to hold the whole adapter: use --format merged",
    ):
        peft_format(adapters, kind="classification", base="")
