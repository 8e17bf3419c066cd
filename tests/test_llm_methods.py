"""What each method trains, from which start, and that its folder gives it back."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import zeroinit
from llm.methods import registry, tensors
from llm.methods.names import COMBINED, METHODS, PEFT, PROMPTS
from llm.methods.registry import apply, counts, load, save
from llm.methods.tensors import trained
from tests.llm_helpers import adapter_of, tiny, tokens
from tests.test_llm_files import on_meta
from zeroinit import convert

FAMILY = {"bitfit": "qwen2"}  # LLaMA has no biases


def options_of(method: str) -> dict:
    return {"layers": 2} if method in PROMPTS or method in COMBINED else {}


def prepared(method: str, dtype: torch.dtype = torch.float32, seed: int = 0):
    return apply(tiny(FAMILY.get(method, "llama"), dtype), method, options_of(method), seed)


def randomise(model) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in trained(model).values():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype), alpha=0.2)


# The table of the design page, and what it leaves to be counted: VeRA b (width) and d (128) of q, k, v, o; IA3 their
# widths; one scale of each of 2 N + 1 normalisations; LoRA r (in + out) of q and v.
TABLE = {
    ("7B", "linear"): 1_229_760,
    ("7B", "nonlinear"): 2_669_568,
    ("7B", "nonlinear_shared"): 360_448,
    ("7B", "random_init"): 1_228_800,
    ("7B", "random_init_nonlinear"): 2_668_608,  # nonlinear without its 30 x 32 gates
    ("7B", "lora"): 4_194_304,
    ("7B", "vera"): 540_672,
    ("7B", "ia3"): 524_288,
    ("7B", "prompt_tuning"): 40_960,
    ("7B", "norms"): (2 * 32 + 1) * 4096,
    ("7B", "full"): 6_738_415_616,
    ("7B", "linear+lora"): 1_229_760 + 4_194_304,
    ("7B", "nonlinear+lora"): 2_669_568 + 4_194_304,
    ("13B", "linear"): 1_947_120,
    ("13B", "nonlinear"): 3_336_240,
    ("13B", "nonlinear_shared"): 448_048,
    ("13B", "random_init"): 1_945_600,
    ("13B", "random_init_nonlinear"): 3_334_720,
    ("13B", "lora"): 6_553_600,
    ("13B", "vera"): 40 * 4 * (5120 + 128),
    ("13B", "ia3"): 40 * 4 * 5120,
    ("13B", "prompt_tuning"): 51_200,
}


@pytest.mark.parametrize("size", ["7B", "13B"])
def test_counts_are_those_of_the_design_page(size):
    for (which, method), count in TABLE.items():
        if which == size:
            model = apply(on_meta(size), method)
            assert counts(model)["trainable"] == count, method
            assert {p.device.type for p in model.parameters()} == {"meta"}


def test_every_method_is_in_the_table_but_for_bitfit():
    assert {method for _, method in TABLE} == set(METHODS) - {"bitfit"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_only_its_own_tensors_train_and_in_float32(method, dtype):
    base = tiny(FAMILY.get(method, "llama"), dtype)
    before = {name: p.clone() for name, p in base.named_parameters()}
    names = set(before)
    model = apply(base, method, options_of(method)).train()
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    moved = {name for name, p in trained(model).items()}
    assert moved
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    wanted = {
        "full": names,
        "bitfit": {name for name in names if name.endswith("bias")},
        "norms": {name for name in names if "norm" in name},
    }
    if method in wanted:
        assert moved == wanted[method]
    else:
        assert not moved & names
    assert {t.dtype for t in trained(model).values()} == {dtype if method == "full" else torch.float32}
    for name, parameter in model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if not parameter.requires_grad and plain in before:
            assert torch.equal(parameter, before[plain]), name
            assert parameter.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_base_except_where_prompts_join_the_text(method):
    """Zero gates, LoRA's zero B, VeRA's zero b, IA3's ones: nothing is changed before training."""
    base, ids = tiny(FAMILY.get(method, "llama")), tokens()
    expected = base(ids).logits
    logits = apply(base, method, options_of(method)).eval()(input_ids=ids).logits[:, -ids.shape[1] :]
    assert torch.allclose(logits, expected, atol=1e-6) == (
        method not in ("random_init", "random_init_nonlinear", "prompt_tuning")
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("full", "bitfit", "norms")])
def test_the_seed_fixes_the_start_and_nothing_else_does(method):
    def start(seed: int, disturbance: int) -> dict:
        torch.manual_seed(disturbance)
        model = tiny(FAMILY.get(method, "llama"))
        state = torch.get_rng_state()
        model = apply(model, method, options_of(method), seed)
        assert torch.equal(torch.get_rng_state(), state)
        frozen = {name: b for name, b in model.named_buffers() if "vera" in name}
        return trained(model) | frozen

    one, same, other = start(1, 5), start(1, 6), start(2, 5)
    assert all(torch.equal(one[name], same[name]) for name in one)
    constant = {"ia3"}  # starts at ones, whatever the seed
    assert any(not torch.equal(one[name], other[name]) for name in one) == (method not in constant)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_folder_gives_identical_logits_by_itself(method, dtype, tmp_path):
    model, ids = prepared(method, dtype), tokens()
    start = model.eval()(input_ids=ids).logits
    randomise(model)
    logits = model(input_ids=ids).logits
    assert not torch.equal(logits, start)
    save(model, tmp_path / "new" / "folder")
    assert registry.saved_method(tmp_path / "new" / "folder") == method
    loaded = load(tiny(FAMILY.get(method, "llama"), dtype), tmp_path / "new" / "folder").eval()
    assert torch.equal(loaded(input_ids=ids).logits, logits)
    save(loaded, tmp_path / "again")  # a loaded model knows its method
    again = load(tiny(FAMILY.get(method, "llama"), dtype), tmp_path / "again").eval()
    assert torch.equal(again(input_ids=ids).logits, logits)


def test_a_full_model_is_a_model_folder(tmp_path):
    model = prepared("full")
    randomise(model)
    save(model, tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(tokens()).logits, model(tokens()).logits)


def test_adapter_folders_without_a_method_are_loaded(tmp_path):
    model = prepared("nonlinear")
    randomise(model)
    zeroinit.save(model, tmp_path / "plain")
    convert.nonlinear_to_linear(tmp_path / "plain", tmp_path / "linear")
    for name in ("plain", "linear"):
        assert torch.equal(load(tiny(), tmp_path / name)(tokens()).logits, model(tokens()).logits)


def test_options_reach_the_methods():
    model = apply(tiny(), "linear+lora", {"layers": 1, "prompt_length": 3, "r": 2})
    assert adapter_of(model).prompts.weight.shape == (1, 3, 48)
    assert {min(t.shape) for name, t in trained(model).items() if "lora" in name} == {2}
    assert counts(apply(tiny(), "prompt_tuning", {"num_virtual_tokens": 4}))["trainable"] == 4 * 48
    assert counts(apply(tiny("phi3"), "lora", {"target_modules": ["qkv_proj"]}))["trainable"] > 0
    own = {name: t.dtype for name, t in trained(apply(tiny("qwen2", torch.bfloat16), "bitfit")).items()}
    assert set(own.values()) == {torch.float32}
    assert "model.layers.0.self_attn.q_proj.bias" in own


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prefix", {}, f"method must be one of {', '.join(METHODS)}; got 'prefix'".replace("+", r"\+")),
        ("linear", {"r": 8}, "linear has no option 'r'; it has prompt_length, layers, initial_scale"),
        ("linear", {"prompt": "random_init"}, "linear has no option 'prompt'"),
        ("lora", {"rank": 8}, "lora has no option 'rank'; it has .*lora_alpha"),
        ("linear+lora", {"rank": 8}, r"linear\+lora has no option 'rank'; it has prompt_length, .*lora_alpha"),
        ("norms", {"layers": 2}, "norms has no option 'layers'; it has no options at all"),
        ("bitfit", {}, "LlamaForCausalLM has none; use the method norms"),
        ("lora", {"target_modules": ["query"]}, "LlamaForCausalLM has no modules query; .* target_modules"),
    ],
)
def test_bad_methods_and_options(method, options, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        apply(model, method, options)
    assert all(p.requires_grad for p in model.parameters())


def test_a_family_with_fused_projections_says_what_to_name():
    with pytest.raises(ValueError, match=r"Phi3ForCausalLM has no modules q_proj, v_proj; .*qkv_proj"):
        apply(tiny("phi3"), "lora")
    with pytest.raises(ValueError, match="no modules k_proj, q_proj, v_proj"):  # though there is an o_proj
        apply(tiny("phi3"), "vera")


def test_damaged_folders_and_other_bases(tmp_path):
    save(prepared("norms"), tmp_path / "norms")
    with pytest.raises(ValueError, match=r"norm.weight \(float32 \(48,\), model: float32 \(64,\)\), .* and 6 more"):
        load(tiny(hidden_size=64), tmp_path / "norms")
    changed = (tmp_path / "norms" / registry.TENSORS).read_bytes()[:-1] + b"\0"
    (tmp_path / "norms" / registry.TENSORS).write_bytes(changed)
    with pytest.raises(ValueError, match=r"tensors.safetensors is not the file that was saved with method.json"):
        load(tiny(), tmp_path / "norms")
    (tmp_path / "norms" / registry.MARKER).write_text(json.dumps({"method": "norms", "version": 1}))  # an earlier one
    infinite = {name: t / 0 for name, t in trained(prepared("norms")).items()}
    tensors.write(tmp_path / "norms" / registry.TENSORS, infinite)
    with pytest.raises(ValueError, match=r"all weights must be finite; in .*tensors.safetensors these are not"):
        load(tiny(), tmp_path / "norms")
    content = (tmp_path / "norms" / registry.TENSORS).read_bytes()
    (tmp_path / "norms" / registry.TENSORS).write_bytes(content[:-10])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load(tiny(), tmp_path / "norms")
    (tmp_path / "norms" / registry.TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=r"tensors.safetensors is missing"):
        load(tiny(), tmp_path / "norms")
    (tmp_path / "norms" / registry.MARKER).write_text(json.dumps({"method": "magic"}))
    with pytest.raises(ValueError, match=r"method.json must name a method: .* got 'magic'"):
        load(tiny(), tmp_path / "norms")
    save(prepared("lora"), tmp_path / "lora")
    with pytest.raises(ValueError, match="does not fit this model"):
        load(tiny(hidden_size=64), tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json is missing"):
        load(tiny(), tmp_path / "lora")
    with pytest.raises(ValueError, match=r"apply or load"):
        save(tiny(), tmp_path / "none")


def test_the_tensors_of_another_method_are_not_restored():
    model = prepared("linear")
    before = {name: t.clone() for name, t in trained(model).items()}
    with pytest.raises(ValueError, match="must be those that the method trains"):
        tensors.restore(model, trained(prepared("lora")))
    with pytest.raises(ValueError, match=r"differing: .* \(int32 \(.*\), model: float32"):
        tensors.restore(model, {name: (1000 * t).int() for name, t in before.items()})
    assert all(torch.equal(t, before[name]) for name, t in trained(model).items())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")  # PEFT calls it
def test_peft_files_are_plain_peft_files(tmp_path):
    """Another program reads them with PEFT alone."""
    import peft

    for method in PEFT:
        model = prepared(method)
        randomise(model)
        save(model, tmp_path / method)
        theirs = peft.PeftModel.from_pretrained(tiny(), tmp_path / method)
        assert torch.equal(theirs(input_ids=tokens()).logits, model.eval()(input_ids=tokens()).logits), method
        state = load_file(tmp_path / method / "adapter_model.safetensors")
        assert {t.dtype for t in state.values()} == {torch.float32}
