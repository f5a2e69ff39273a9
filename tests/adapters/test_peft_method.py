"""adapter=peft: every PEFT type for linear layers, merging bit for bit, and refusals."""

import peft
import pytest
import torch

from rlora.adapters import checkpoint, inject
from rlora.adapters.lora import LoRA
from rlora.adapters.peft import Peft
from rlora.models.random_init import random_model

ENCODER = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
HEAD = ["classifier.weight", "classifier.bias"]
TYPES = {  # options, where the defaults do not fit layers so small
    "LORA": {"r": 2},
    "VERA": {"r": 4},
    "RANDLORA": {"r": 8},
    "FOURIERFT": {"n_frequency": 20, "random_loc_seed": 1},
    "IA3": {"feedforward_modules": []},
    "OFT": {"oft_block_size": 16, "r": 0},
    "BOFT": {"boft_block_size": 4},
    "LOHA": {"r": 2},
    "LOKR": {"r": 2},
    "HRA": {"r": 2},
    "MISS": {"r": 2},
    "SHIRA": {"r": 2, "random_seed": 1},
    "C3A": {"block_size": 16},
    "WAVEFT": {"n_frequency": 20},
    "VBLORA": {"r": 2, "num_vectors": 16, "vector_length": 16},
    "DELORA": {"r": 2},
    "ROAD": {"group_size": 16},
    "ADALORA": {"total_step": 10},
}
TOKENS = torch.arange(20).reshape(2, 10) + 5


def encoder():
    return random_model(ENCODER, kind="classification", num_labels=2, seed=0).model.eval()


def adapted(peft_type, net=None, seed=0, **options):
    net = net or encoder()
    return net, inject(
        net,
        Peft({"peft_type": peft_type, **TYPES.get(peft_type, {}), **options}),
        seed=seed,
        head=HEAD,
    )


def moved(adapters, amount=0.05):
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.adapter_parameters().values():
        parameter.data += amount * torch.randn(parameter.shape, generator=generator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peft_type", TYPES)
def test_every_type_trains_saves_loads_and_merges(peft_type, tmp_path):
    net, adapters = adapted(peft_type)
    moved(adapters)
    unmerged = net(TOKENS).logits
    torch.nn.functional.cross_entropy(unmerged, torch.tensor([0, 1])).backward()
    assert any(p.grad is not None and p.grad.any() for p in adapters.adapter_parameters().values())
    trained = {
        id(p)
        for p in (*adapters.adapter_parameters().values(), *adapters.head_parameters().values())
    }
    assert all(p.grad is None for p in net.parameters() if id(p) not in trained)

    checkpoint.save(
        adapters, tmp_path / "adapter", backbone={"source": "", "fingerprint": "x"}, extra={}
    )
    other, fresh = adapted(peft_type)
    checkpoint.load(fresh, tmp_path / "adapter", fingerprint="x")
    torch.testing.assert_close(other(TOKENS).logits, unmerged, rtol=1e-5, atol=1e-6)

    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    if adapters.mergeable() is None:
        with adapters.merged():
            torch.testing.assert_close(net(TOKENS).logits, unmerged, rtol=1e-3, atol=2e-5)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize("peft_type", ["LORA", "VERA", "FOURIERFT"])
def test_the_seed_determines_the_start_and_the_global_generator_is_unchanged(peft_type):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, two, other = (adapted(peft_type, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in one.adapter_parameters().items():
        assert torch.equal(parameter, two.adapter_parameters()[name])
    assert one.digest == two.digest
    if peft_type == "LORA":
        assert any(
            not torch.equal(p, other.adapter_parameters()[n])
            for n, p in one.adapter_parameters().items()
        )


def test_a_peft_lora_has_as_many_parameters_as_ours():
    _, theirs = adapted("LORA", r=4)
    ours = inject(encoder(), LoRA(rank=4, targets="all-linear"), head=HEAD)
    assert theirs.report() == ours.report()


def test_an_unwrapped_model_has_no_peft_layers():
    net, adapters = adapted("LORA")
    moved(adapters)
    expected = net(TOKENS).logits
    plain = adapters.unwrap()
    torch.testing.assert_close(plain(TOKENS).logits, expected, rtol=1e-4, atol=1e-6)
    assert set(plain.state_dict()) == set(encoder().state_dict())


def test_conv1d_is_adapted_whole():
    net = random_model(GPT2, kind="text", num_labels=0, seed=0).model.eval()
    adapters = inject(net, Peft({"peft_type": "LORA", "r": 2}, targets=["c_attn"]))
    moved(adapters)
    unmerged = net(TOKENS).logits
    with adapters.merged():
        torch.testing.assert_close(net(TOKENS).logits, unmerged, rtol=1e-4, atol=1e-5)
    net = random_model(GPT2, kind="text", num_labels=0, seed=0).model
    with pytest.raises(
        ValueError, match=r"means a part of .*c_attn, and PEFT adapts whole layers: name it c_attn"
    ):
        inject(net, Peft({"peft_type": "LORA"}, targets=["q", "v"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"peft_type": "LORRA"},
            r"adapter\.config\.peft_type=LORRA is none that goes to linear layers: "
            r"choose one of .*FOURIERFT",
        ),
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING is none that goes to linear layers"),
        ({"peft_type": "LORA", "rank": 3}, r"adapter\.config does not fit LORA: .*rank"),
        (
            {"peft_type": "LORA", "target_modules": ["q"]},
            r"adapter\.config\.target_modules is not set here",
        ),
        ({"peft_type": "LORA", "r": 0}, "PEFT refuses LORA here"),
    ],
)
def test_unknown_peft_configs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        inject(encoder(), Peft(config), head=HEAD)


@pytest.fixture
def directory(tmp_path):
    """Function (config): a directory that PEFT wrote for a trained model, and that model."""

    def write(config):
        model = peft.get_peft_model(encoder(), config)
        generator = torch.Generator().manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(tmp_path / "peft")
        return tmp_path / "peft", model.eval()

    return write


QV = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=3, lora_alpha=5, **QV),
        peft.LoraConfig(
            r=3, use_rslora=True, rank_pattern={"query": 2}, modules_to_save=["classifier"], **QV
        ),
        peft.VeraConfig(r=8, **QV),
        peft.VeraConfig(r=8, save_projection=False, projection_prng_key=5, **QV),
        peft.RandLoraConfig(r=8, **QV),
        peft.FourierFTConfig(n_frequency=20, **QV),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_a_peft_directory_gives_the_start_values(directory, config):
    path, model = directory(config)
    expected = model(TOKENS).logits
    net = encoder()
    adapters = inject(net, Peft(path=str(path)), head=HEAD)
    torch.testing.assert_close(net(TOKENS).logits, expected, rtol=1e-5, atol=1e-6)
    assert adapters.report().adapter > 0
    net(TOKENS).logits.sum().backward()
    assert any(p.grad is not None for p in adapters.adapter_parameters().values())
