"""The equations by independent routes: literal float64 with gradients, PEFT, the regression model of `theory`."""

import math

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.llm_helpers import adapted, adapter_of, literal_logits, multimodal, tiny, tokens
from theory.model import MoERegression, Prompts
from zeroinit.attention import PREFIX
from zeroinit.families import attention_modules
from zeroinit.model import activate, attach, detach, disabled, save

# PEFT calls this of transformers itself.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
KINDS = ("linear", "nonlinear", "nonlinear_shared", "random_init")


def literal_prompts(adapter, layer: int) -> torch.Tensor:
    """The prompts of a layer from the parameters, by the equations of `llm.prompts` and no module of it."""
    p = dict(adapter.prompts.named_parameters())
    row, length = layer - adapter.first, adapter.config.prompt_length
    if "weight" in p:
        return p["weight"][row]
    embedding = p["embedding.weight"]
    chosen = embedding[layer : layer + 1] if len(embedding) == 4 else embedding[row * length : (row + 1) * length]
    hidden = chosen @ p["network.hidden.weight"].T + p["network.hidden.bias"]
    out = torch.clamp(hidden, min=0) @ p["network.output.weight"].T + p["network.output.bias"]
    return out.reshape(length, -1)


@pytest.mark.parametrize("prompt", KINDS)
def test_output_and_all_gradients_against_literal_float64(prompt):
    model = adapted(tiny("llama-head-dim", torch.float64), prompt=prompt).double()
    embedded = model.get_input_embeddings()(tokens()).detach().requires_grad_(True)
    adapter, case = adapter_of(model), {"inputs_embeds": embedded}
    weights = torch.randn(2, 11, 97, dtype=torch.float64)
    results = []
    for route in ("ours", "literal"):
        if route == "ours":
            logits = model(**case).logits
        else:
            prompts = {layer: literal_prompts(adapter, layer) for layer in (2, 3)}
            gates = None if prompt == "random_init" else {layer: adapter.gate[layer - 2] for layer in (2, 3)}
            logits = literal_logits("llama-head-dim", prompts, gates, case)
        gradients = torch.autograd.grad((logits * weights).sum(), [embedded, *adapter.parameters()])
        results.append([logits.detach(), *gradients])
    for ours, literal in zip(*results, strict=True):
        assert literal.abs().max() > 1e-3
        torch.testing.assert_close(ours, literal, rtol=0, atol=1e-10)


@torch.no_grad()
def test_equals_peft_with_its_gate_at_tanh_g():
    ids, gates = tokens(), (0.4, -0.8)
    ours = adapted(tiny(num_key_value_heads=4), None)
    theirs = peft.get_peft_model(
        tiny(num_key_value_heads=4), peft.AdaptionPromptConfig(adapter_len=5, adapter_layers=2, task_type="CAUSAL_LM")
    ).eval()
    wrapped = [m for m in theirs.modules() if type(m).__name__ == "AdaptedAttention"]
    for row, (module, gate) in enumerate(zip(wrapped, gates, strict=True)):
        module.adaption_prompt.copy_(adapter_of(ours).prompts.weight[row][None])
        module.adaption_gate.fill_(math.tanh(gate))
        adapter_of(ours).gate[row] = gate
    moved = (ours(ids).logits - tiny(num_key_value_heads=4)(ids).logits).abs().max()
    assert moved > 0.1
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True], ids=["zero_init", "joint"])
@torch.no_grad()
def test_one_head_is_the_regression_model(joint):
    """The last token of one unrotated head is f(X) of `theory.model`, X all tokens in a row: equation (10)."""
    count, hidden, head, length = 4, 6, 3, 5
    config = LlamaConfig(hidden_size=hidden, head_dim=head, num_attention_heads=1, num_key_value_heads=1,
                         num_hidden_layers=1, intermediate_size=8, vocab_size=9)  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).double().eval()
    kind = "random_init" if joint else "linear"
    adapter = adapter_of(adapted(model, 0.7, kind, layers=1, prompt_length=length)).double()
    module = attention_modules(model)[0][1]
    for projection in (module.q_proj, module.k_proj, module.v_proj, module.o_proj):
        projection.weight.normal_()
    x = torch.randn(7, count, hidden, dtype=torch.float64)
    unrotated = torch.ones(1, count, head, dtype=torch.float64), torch.zeros(1, count, head, dtype=torch.float64)
    ours = module(x, position_embeddings=unrotated, attention_mask=None)[0][:, -1].numpy()

    q, k, v, o = (p.weight.numpy() for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj))
    take = np.eye(count * hidden).reshape(count, hidden, -1)  # X -> token j
    last, bilinear = take[-1], q.T @ k / math.sqrt(head)
    f = MoERegression(
        A=[last.T @ bilinear @ token for token in take],
        a=np.zeros(count),
        eta=[o @ v @ token for token in take],
        B=last.T @ bilinear,
        C=o @ v,
        gate="joint" if joint else "zero_init",
    )
    prompts = adapter.prompts_of(0).numpy()
    theirs = f(x.flatten(1).numpy(), Prompts(prompts, np.zeros(length), None if joint else float(adapter.gate[0, 0])))
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("family", ["llama", "llama-head-dim", "qwen3", "gemma3", "phi3"])
@torch.no_grad()
def test_input_dependent_gate_is_tanh_of_gate_times_unrotated_query(family):
    model = tiny(family, torch.float64)
    module, ids = attention_modules(model)[3][1], tokens()
    hidden, plain = [], model(ids).logits
    hook = module.register_forward_pre_hook(lambda m, a, kw: hidden.append(kw["hidden_states"]), with_kwargs=True)
    adapted(model, None, layers=1, gate="adapt").double()
    assert adapter_of(model).gate.shape == (1, 4, module.head_dim)
    assert torch.equal(model(ids).logits, plain)
    adapter_of(model).gate.normal_()
    out = []
    module.o_proj.register_forward_pre_hook(lambda m, a: out.append(a[0]))
    model(ids)
    with disabled(model):
        model(ids)
    hook.remove()

    x, adapter, size = hidden[-1], adapter_of(model), module.head_dim
    weight = module.qkv_proj.weight[: 4 * size] if family == "phi3" else module.q_proj.weight
    bias = module.q_proj.bias if family == "llama-head-dim" else torch.zeros(4 * size)
    query = (x @ weight.T + bias).view(2, 11, 4, size)
    if hasattr(module, "q_norm"):
        query = module.q_norm(query)
    # cos and sin at position t, applied here because only the gate sees the query before rotation
    cos, sin = (model.model.rotary_emb(x, torch.arange(11)[None]) if family != "gemma3"
                else model.model.rotary_emb(x, torch.arange(11)[None], layer_type=module.layer_type))  # fmt: skip
    half = torch.cat([-query[..., size // 2 :], query[..., : size // 2]], -1)
    rotated = query * cos[0, :, None] + half * sin[0, :, None]
    from tests.llm_helpers import literal_projection

    keys, values = (t.repeat_interleave(2, 0) for t in literal_projection(module, adapter.prompts_of(3)))
    term = torch.einsum("bthd,hld->bthl", rotated, keys).mul(module.scaling).softmax(-1)
    term = torch.einsum("bthl,hld->bthd", term, values)
    gate = torch.tanh((query * adapter.gate[0]).sum(-1))
    assert gate.abs().mean() > 0.1
    torch.testing.assert_close(
        (out[0] - out[1]).view_as(term),
        gate[..., None] * term,
        rtol=0,
        atol=5e-6 if family in ("qwen3", "gemma3") else 1e-10,
    )


@torch.no_grad()
def test_identity_gate_activation_is_the_raw_gate():
    ids = tokens()
    raw, tanh = (adapted(tiny(), 0.4, gate_activation=kind) for kind in ("identity", "tanh"))
    assert not torch.allclose(raw(ids).logits, tanh(ids).logits, atol=1e-3)
    adapter_of(raw).gate.copy_(torch.tanh(adapter_of(tanh).gate))
    torch.testing.assert_close(raw(ids).logits, tanh(ids).logits, rtol=0, atol=1e-5)


def test_prompts_pass_through_a_lora_on_the_same_base():
    """Key and value LoRA change the prompts' keys and values as they change the text's: equal to the merged model."""
    lora = peft.LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=4, task_type="CAUSAL_LM")
    ids = tokens()
    for first in ("lora", "adapter"):
        model = tiny()
        if first == "lora":
            wrapped = peft.get_peft_model(model, lora)
            adapted(wrapped, gate="adapt")
        else:
            adapted(model, gate="adapt")
            wrapped = peft.get_peft_model(model, lora)
            activate(wrapped, "default")
        wrapped.eval()
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.3)
        wrapped(ids, labels=ids).loss.backward()
        trained = {key for key, p in wrapped.named_parameters() if p.requires_grad}
        assert {("lora_" in key or "zero_init_adapters" in key) for key in trained} == {True}
        assert any("lora_A" in key for key in trained)
        assert any(key.endswith(".gate") for key in trained)
        for key, parameter in wrapped.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, key
            if key.rpartition(".")[0] in [k.rpartition(".")[0] for k in trained] and "lora" in key:
                assert parameter.grad.abs().max() > 0, key
        logits = wrapped(ids).logits
        merged = wrapped.merge_and_unload()
        activate(merged, "default")
        torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-4, atol=1e-4)


def test_a_lora_added_after_an_adapt_gate_is_not_silently_left_out():
    model = adapted(tiny(), gate="adapt")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ValueError, match="activate"):
        wrapped(tokens())


def test_detach_leaves_the_base_frozen_under_a_later_lora():
    model = adapted(tiny())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    activate(wrapped, "default")
    detach(wrapped)
    assert {"lora_" in key for key, p in wrapped.named_parameters() if p.requires_grad} == {True}


def test_a_lora_in_the_adapter_itself_is_refused_with_the_cure(tmp_path):
    """target_modules="all-linear" takes the maps of non-linear prompts for layers of the base."""
    lora = {"target_modules": "all-linear", "r": 2}
    wrapped = peft.get_peft_model(adapted(tiny(), prompt="nonlinear"), peft.LoraConfig(**lora))
    with pytest.raises(ValueError, match="exclude_modules") as error:
        activate(wrapped, "default")
    cure = str(error.value).partition('exclude_modules=r"')[2].partition('"')[0]
    lora["exclude_modules"] = cure
    wrapped = peft.get_peft_model(adapted(tiny(), prompt="nonlinear"), peft.LoraConfig(**lora))
    save(activate(wrapped, "default"), tmp_path)
    assert any("lora_" in key for key, _ in wrapped.named_parameters())


@torch.no_grad()
def test_another_model_with_the_same_configuration_is_left_alone():
    config = tiny().config
    one, two = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    text, ids = str(config), tokens()
    two.load_state_dict(one.state_dict())
    before = two(ids).logits
    adapted(one)
    assert one.config is not config
    assert two.config is config
    assert str(config) == text
    assert config._attn_implementation == "sdpa"
    assert all(m.config is one.config for _, m in attention_modules(one))
    assert torch.equal(two(ids).logits, before)
    assert not torch.allclose(one(ids).logits, before, atol=1e-2)


@torch.no_grad()
def test_resetting_the_implementation_is_noticed():
    model, ids = adapted(tiny()), tokens()
    logits = model(ids).logits
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="zero_init_eager"):
        model(ids)
    model.set_attn_implementation(PREFIX + "eager")
    torch.testing.assert_close(model(ids).logits, logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_multimodal_models_adapt_their_text_decoder():
    model = multimodal()
    before, config, ids = model(tokens()).logits, model.config, tokens()
    attach(model)
    assert torch.equal(model(ids).logits, before)
    adapter_of(model).gate.fill_(0.5)
    assert not torch.allclose(model(ids).logits, before, atol=1e-3)
    assert model.config.text_config._attn_implementation == "zero_init_sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert config.text_config._attn_implementation == "sdpa"
