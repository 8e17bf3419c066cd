"""Counts, folders, and clear errors."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.llm_helpers import adapted, adapter_of, configuration, tiny, tokens
from zeroinit.config import AdapterConfig
from zeroinit.model import activate, attach, detach, disabled, load, save, trainable_parameters

# PEFT calls this of transformers itself.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
KINDS = ("linear", "nonlinear", "nonlinear_shared", "random_init")
LLAMA = {
    "7B": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008},
    "13B": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824},
}


def on_meta(size: str, **changes):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**(LLAMA[size] | changes)))


@pytest.mark.parametrize(
    ("size", "prompt", "count"),
    [
        ("7B", "linear", 1_229_760),
        ("7B", "nonlinear", 2_669_568),
        ("7B", "nonlinear_shared", 360_448),
        ("7B", "random_init", 1_228_800),
        ("13B", "linear", 1_947_120),
        ("13B", "nonlinear", 3_336_240),
        ("13B", "nonlinear_shared", 448_048),
        ("13B", "random_init", 1_945_600),
    ],
)
def test_parameter_counts_of_the_design_page(size, prompt, count):
    model = attach(on_meta(size), configuration(prompt))
    assert trainable_parameters(model) == count
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_detach_after_leaving_the_meta_device():
    """The parameters are others than those that attach froze."""
    model = attach(on_meta("7B", num_hidden_layers=1, hidden_size=64, intermediate_size=64)).to_empty(device="cpu")
    assert trainable_parameters(model) == sum(p.numel() for p in adapter_of(model).parameters())
    detach(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]), 4_194_304),
        (peft.VeraConfig(r=128, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), 540_672),
        (peft.IA3Config(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], feedforward_modules=[]), 524_288),
        (peft.PromptTuningConfig(num_virtual_tokens=10, task_type="CAUSAL_LM"), 40_960),
    ],
    ids=["lora", "vera", "ia3", "prompt tuning"],
)
def test_counts_of_the_methods_compared_with(config, count):
    assert trainable_parameters(peft.get_peft_model(on_meta("7B"), config)) == count


@pytest.mark.skipif(transformers.__version__ < "5.1", reason="these versions compute nothing on the meta device")
@pytest.mark.parametrize("prompt", KINDS)
def test_an_adapted_7b_layer_costs_at_most_1_percent_more(prompt):
    counts = []
    for adapted_too in (False, True):
        model = on_meta("7B", num_hidden_layers=1)
        if adapted_too:
            attach(model, configuration(prompt))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.model(torch.zeros(1, 512, dtype=torch.long, device="meta"))
        counts.append(counter.get_total_flops())
    assert 1 < counts[1] / counts[0] <= 1.01


def test_7b_linear_file_is_at_most_5_mb(tmp_path):
    model = attach(on_meta("7B"))
    adapter_of(model).to_empty(device="cpu")
    save(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 5_000_000


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("prompt", KINDS)
@torch.no_grad()
def test_save_and_load_give_identical_logits(prompt, gate, tmp_path):
    ids, model = tokens(), adapted(tiny(), prompt=prompt, gate=gate, layers=3, hidden_width=16, activation="tanh")
    logits = model(ids).logits
    save(model, tmp_path / "new" / "folder")
    loaded = load(tiny(), tmp_path / "new" / "folder", name="mine")
    assert torch.equal(loaded(ids).logits, logits)
    assert adapter_of(loaded, "mine").config == adapter_of(model).config
    state = load_file(tmp_path / "new" / "folder" / "adapter_model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.float32}
    assert [key for key in state if "gate" in key] == ([] if prompt == "random_init" else ["gate"])
    half = load(tiny(dtype=torch.bfloat16), tmp_path / "new" / "folder")
    assert {p.dtype for p in adapter_of(half).parameters()} == {torch.float32}


def test_several_adapters_are_saved_by_name(tmp_path):
    model = adapted(adapted(tiny(), name="one"), prompt="random_init", name="two")
    save(model, tmp_path / "active")
    save(model, tmp_path / "one", "one")
    assert (
        json.loads((tmp_path / "active" / "adapter_config.json").read_text())["adapter"]["attention"] == "random_init"
    )
    loaded = load(tiny(), tmp_path / "one")
    activate(model, "one")
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "quadratic"}, "linear, nonlinear, nonlinear_shared; got 'quadratic'"),
        ({"activation": "swish"}, "relu, leaky_relu, gelu, tanh, sigmoid; got 'swish'"),
        ({"gate": "none"}, "head, adapt; got 'none'"),
        ({"gate_activation": "relu"}, "tanh, identity; got 'relu'"),
        ({"prompt_length": 0}, "prompt_length must be an integer of at least 1; got 0"),
        ({"prompt_length": 2.0}, "prompt_length must be an integer of at least 1; got 2.0"),
        ({"layers": 0}, "layers must be an integer of at least 1; got 0"),
        ({"hidden_width": -1}, "hidden_width must be an integer of at least 0; got -1"),
        ({"layer_width": 0}, "layer_width must be an integer of at least 1; got 0"),
        ({"initial_scale": 0.0}, "positive number"),
        ({"initial_scale": float("nan")}, "positive number"),
        ({"prompt": ["linear"]}, "prompt must be one of"),
    ],
)
def test_bad_configurations(options, message):
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**options)


def test_bad_models_and_names():
    model = tiny()
    with pytest.raises(ValueError, match="at most the base's depth, 4; got 5"):
        attach(model, AdapterConfig(layers=5))
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="PreTrainedModel"):
        attach(torch.nn.Linear(2, 2))
    for name in ("", "a.b", 3, "type", "active", "parameters"):
        with pytest.raises(ValueError, match="name must be"):
            attach(model, name=name)
    with pytest.raises(TypeError, match=r"config must be an AdapterConfig.*got 'linear'"):
        attach(model, "linear")
    assert not hasattr(model, "zero_init_adapters")
    for function in (
        detach,
        lambda m: activate(m, "default"),
        lambda m: save(m, "unused"),
        lambda m: disabled(m).__enter__(),
    ):
        with pytest.raises(ValueError, match="no adapter"):
            function(model)
    attach(model, name="one")
    with pytest.raises(ValueError, match="'one' is attached already"):
        attach(model, name="one")
    for function in (lambda: activate(model, "two"), lambda: save(model, "unused", "two")):
        with pytest.raises(ValueError, match="no adapter is named 'two'; attached: one"):
            function()
    other = tiny()
    other.config._attn_implementation_internal = "paged|eager"
    with pytest.raises(ValueError, match=r"one of eager, sdpa, .* uses 'paged\|eager'"):
        attach(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 64}, r"hidden_size 48 \(this model: 64\)"),
        ({"num_hidden_layers": 5}, r"num_hidden_layers 4 \(this model: 5\)"),
        ({"num_attention_heads": 2}, r"num_attention_heads 4 \(this model: 2\)"),
    ],
)
def test_a_folder_for_another_base(changes, message, tmp_path):
    save(adapted(tiny()), tmp_path)
    model = tiny(**changes)
    with pytest.raises(ValueError, match=message):
        load(model, tmp_path)
    assert not hasattr(model, "zero_init_adapters")


def corrupt(folder, how: str) -> None:
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    content = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    elif how == "garbage":
        weights.write_bytes(b"\xff" * 100)
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "shape":
        save_file(load_file(weights) | {"gate": torch.zeros(2, 3)}, weights)
    elif how == "extra":
        save_file(load_file(weights) | {"other": torch.zeros(2)}, weights)
    elif how == "last byte":
        weights.write_bytes(content[:-1])
    elif how == "nan":
        save_file({k: t * float("nan") for k, t in load_file(weights).items()}, weights)
    elif how == "json":
        config.write_text(config.read_text()[:40])
    elif how == "list":
        config.write_text("[1]")
    elif how == "method":
        config.write_text('{"peft_type": "LORA"}')
    elif how == "option":
        config.write_text(config.read_text().replace('"prompt_length"', '"prompt_len"'))
    elif how == "layers":
        config.write_text(config.read_text().replace('"layers": 2', '"layers": 9'))
    elif how in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / how).unlink()


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("truncated", ValueError, "damaged or cut short"),
        ("garbage", ValueError, "damaged or cut short"),
        ("empty", ValueError, "damaged or cut short"),
        ("shape", ValueError, r"gate must be float32 \(2, 4\), is float32 \(2, 3\)"),
        ("extra", ValueError, "other must be absent"),
        ("last byte", ValueError, "damaged or cut short"),
        ("nan", ValueError, "finite"),
        ("json", ValueError, "is not the configuration"),
        ("list", ValueError, "is not the configuration"),
        ("method", ValueError, "its method is 'LORA'"),
        ("option", ValueError, "prompt_len"),
        ("layers", ValueError, "at most the base's depth"),
        ("adapter_model.safetensors", FileNotFoundError, "adapter_model.safetensors is missing"),
        ("adapter_config.json", FileNotFoundError, "adapter_config.json is missing"),
    ],
)
def test_damaged_folders(how, error, message, tmp_path):
    save(adapted(tiny()), tmp_path)
    corrupt(tmp_path, how)
    model = tiny()
    with pytest.raises(error, match=message):
        load(model, tmp_path)
    assert not hasattr(model, "zero_init_adapters")
    assert model.config._attn_implementation == "sdpa"


def test_the_word_gate_names_gates_only():
    for prompt in KINDS:
        for gate in ("head", "adapt"):
            names = [n for n, _ in adapter_of(adapted(tiny(), prompt=prompt, gate=gate)).named_parameters()]
            assert [n for n in names if "gate" in n] == ([] if prompt == "random_init" else ["gate"])


def test_published_layer_counts():
    for depth, layers in ((32, 30), (5, 3), (3, 1), (2, 1), (1, 1)):
        assert adapter_of(attach(tiny(num_hidden_layers=depth))).layers == layers
