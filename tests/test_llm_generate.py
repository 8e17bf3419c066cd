"""Generation: caches, beams, left padding; prompt keys and values are kept while decoding and never stale."""

import copy

import peft
import pytest
import torch

import zeroinit.attention
import zeroinit.calls
from tests.llm_helpers import FAMILIES, MAIN, adapted, adapter_of, passes_of_a_text_that_project, tiny, tokens
from zeroinit.families import attention_modules
from zeroinit.model import activate, attach, detach, disabled

KINDS = ("linear", "nonlinear", "random_init")
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}


def generate(model, ids, **options):
    return model.generate(ids, **(GREEDY | {"attention_mask": torch.ones_like(ids)} | options))


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("prompt", KINDS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "qwen3", "phi3"])
def test_with_cache_equals_without(family, prompt, gate):
    if prompt == "random_init" and gate == "adapt":
        pytest.skip("random_init has no gate")
    model, ids = adapted(tiny(family), prompt=prompt, gate=gate), tokens(2, 7)
    without = generate(model, ids, use_cache=False)
    assert torch.equal(generate(model, ids), without)
    with disabled(model):
        assert not torch.equal(generate(model, ids), without)


@pytest.mark.parametrize("prompt", KINDS)
def test_static_cache_beams_and_samples(prompt):
    model, ids = adapted(tiny(), prompt=prompt), tokens(2, 7)
    assert torch.equal(generate(model, ids, cache_implementation="static"), generate(model, ids))
    beams = generate(model, ids, num_beams=3)
    assert torch.equal(generate(model, ids, num_beams=3, use_cache=False), beams)
    samples = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        samples.append(generate(model, ids, do_sample=True, use_cache=use_cache))
    assert torch.equal(*samples)


@pytest.mark.parametrize("prompt", KINDS)
@pytest.mark.parametrize("family", MAIN)
def test_left_padded_batch_equals_single_prompts(family, prompt):
    model = adapted(tiny(family), prompt=prompt)
    singles = [tokens(1, length, seed=length) for length in (4, 9)]
    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    for row, single in enumerate(singles):
        ids[row, -single.shape[1] :], mask[row, -single.shape[1] :] = single, 1
    together = generate(model, ids, attention_mask=mask)
    for row, single in enumerate(singles):
        assert torch.equal(together[row, 9:], generate(model, single)[0, single.shape[1] :])


def decode(model, ids) -> torch.Tensor:
    """Logits of all positions, one token at a time after the first two: the path that keeps prompt keys and values."""
    past, out = None, []
    for piece in [ids[:, :2], *ids[:, 2:].split(1, 1)]:
        result = model(piece, past_key_values=past, use_cache=True)
        past = result.past_key_values
        out.append(result.logits)
    return torch.cat(out, 1)


@pytest.mark.parametrize("prompt", KINDS)
def test_decoding_projects_prompts_once(prompt, monkeypatch):
    model, calls = adapted(tiny(), prompt=prompt), []
    project = zeroinit.attention.project_prompts
    monkeypatch.setattr(zeroinit.attention, "project_prompts", lambda *a: calls.append(1) or project(*a))
    generate(model, tokens(2, 7))
    assert len(calls) == 2 * (passes := passes_of_a_text_that_project())  # layers
    model(tokens(), labels=tokens()).loss.backward()
    assert len(calls) == 2 * passes + 2


@pytest.mark.parametrize("change", ["optimizer", "data", "replace", "load", "base", "switch", "double", "adapter off"])
@pytest.mark.parametrize("prompt", KINDS)
@torch.no_grad()
def test_kept_prompts_are_dropped_at_any_update(prompt, change):
    """Each change happens between two decoding steps, the only place where something kept could be stale."""
    ids, model = tokens(1, 7), adapted(tiny(), prompt=prompt)
    adapted(model, prompt=prompt, name="other")
    activate(model, "default")
    past = model(ids[:, :5], use_cache=True).past_key_values
    past = model(ids[:, 5:6], past_key_values=past).past_key_values
    assert len(zeroinit.calls._kept[past]) == 2  # layers
    parameters = list(adapter_of(model).parameters())
    if change == "optimizer":
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW(parameters, lr=0.5).step()
    elif change == "data":
        for parameter in parameters:
            parameter.data = parameter.data * 2
    elif change == "replace":
        for parameter in parameters:
            parameter.copy_(parameter * 2)
    elif change == "load":
        adapter_of(model).load_state_dict({k: v * 2 for k, v in adapter_of(model).state_dict().items()})
    elif change == "base":
        for _, module in attention_modules(model):
            module.k_proj.weight.mul_(1.5)
            module.v_proj.weight.mul_(1.5)
    elif change == "switch":
        activate(model, "other")
    elif change == "double":
        model.double()
        for layer in past.layers:
            layer.keys, layer.values = layer.keys.double(), layer.values.double()
    elif change == "adapter off":
        with disabled(model):
            model(ids)
        adapter_of(model).gate.mul_(2) if prompt != "random_init" else adapter_of(model).prompts.weight.mul_(2)
    again, last = copy.deepcopy(past), ids[:, 6:7]
    logits = model(last, past_key_values=past).logits
    assert again not in zeroinit.calls._kept
    assert torch.equal(model(last, past_key_values=again).logits, logits)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("prompt", KINDS)
def test_nothing_is_kept_from_one_text_to_the_next(prompt, cache):
    """A text of one token begins with a step like any other; a LoRA switched off, and .data, change no version."""
    lora = peft.LoraConfig(target_modules=["k_proj", "v_proj"], r=2, init_lora_weights=False)
    model = activate(peft.get_peft_model(adapted(tiny(), prompt=prompt), lora).eval(), "default")
    options = {"output_logits": True, "return_dict_in_generate": True, "cache_implementation": cache}

    def logits(forget: bool = False) -> torch.Tensor:
        if forget:
            zeroinit.calls._kept.clear()
        return torch.stack(generate(model, tokens(1, 1), **options).logits)

    before = logits()
    with model.disable_adapter():
        without = logits()
        assert torch.equal(without, logits(forget=True))
    assert torch.equal(logits(), before)
    assert not torch.equal(without, before)
    for parameter in adapter_of(model).parameters():
        parameter.data.mul_(3)
    after = logits()
    assert torch.equal(after, logits(forget=True))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_tells_where_a_text_begins(family, monkeypatch):
    """Prompts are projected once for each text in each layer, not in every step."""
    model, calls = adapted(tiny(family)), []
    project = zeroinit.attention.project_prompts
    monkeypatch.setattr(zeroinit.attention, "project_prompts", lambda *a: calls.append(1) or project(*a))
    for length in (1, 3):
        generate(model, tokens(1, length), max_new_tokens=4)
    assert len(calls) == 2 * 2 * passes_of_a_text_that_project()


@pytest.mark.parametrize("prompt", KINDS)
def test_training_after_generation_and_generation_after_training(prompt):
    """The order in which litgpt's adapter loses its gradients, and then the one in which old prompts would show."""
    model, ids = adapted(tiny(), prompt=prompt), tokens(1, 7)
    with torch.no_grad():
        before = decode(model, ids)
    model.train()
    optimizer = torch.optim.SGD(adapter_of(model).parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        assert all(p.grad.abs().max() > 0 for p in adapter_of(model).parameters())
        optimizer.step()
    model.eval()
    with torch.no_grad():
        after = decode(model, ids)
        torch.testing.assert_close(after, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(decode(model, ids), after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decode(model, ids), after, rtol=1e-4, atol=1e-4)  # with gradients: nothing is kept


@torch.no_grad()
def test_disable_enable_detach_and_switch():
    plain, ids = tiny(), tokens()
    base = plain(ids).logits
    frozen, config = {name: p.requires_grad for name, p in plain.named_parameters()}, plain.config
    model = adapted(plain, name="one")
    one = model(ids).logits
    adapted(model, prompt="random_init", layers=4, name="two")
    two = model(ids).logits
    activate(model, "one")
    assert torch.equal(model(ids).logits, one)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        n for n, _ in model.named_parameters() if n.startswith("zero_init_adapters.one.")
    ]
    with disabled(model):
        assert torch.equal(model(ids).logits, base)
        with disabled(model):
            pass
        assert torch.equal(model(ids).logits, base)
    assert torch.equal(model(ids).logits, one)
    activate(model, "two")
    assert torch.equal(model(ids).logits, two)
    detach(model)
    assert torch.equal(model(ids).logits, base)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == frozen
    assert model.config is config
    assert config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    attach(model, name="one")
    assert torch.equal(model(ids).logits, base)
