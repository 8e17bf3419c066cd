"""The loss on the response against the padded computation, for every family and wrapper."""

import pytest
import torch
import torch.nn.functional as F

from llm.data.alpaca import IGNORED
from llm.data.batches import Collator, pack
from llm.training.loss import response_loss
from tests.llm_helpers import FAMILIES, adapted, tiny
from tests.test_llm_data import examples

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def mean(result) -> torch.Tensor:
    return result[0] / result[1]


def padded_loss(model, batch):
    """The padded computation written out: all logits, then those that predict a label."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("kind", ["base", "linear", "random_init"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_grouped_and_packed_agree(kind, attention):
    found = examples()
    exact = 1e-12 if attention == "sdpa" else 1e-7  # the eager softmax of transformers is always float32
    for dtype, tolerance in ((torch.float64, exact), (torch.float32, 1e-6)):
        model = tiny("llama", dtype, attention)
        if kind != "base":
            adapted(model, prompt=kind)
        fixed = Collator(length=32)(found)
        wanted = padded_loss(model, fixed)
        labels = int((fixed["labels"][:, 1:] != IGNORED).sum())
        assert mean(response_loss(model, fixed)).item() == pytest.approx(model(**fixed).loss.item(), rel=1e-6)
        batches = {
            "padded": [fixed],
            "grouped": [Collator()(found[i : i + 2]) for i in range(0, 7, 2)],
            "packed": [Collator()(pack(found, 24))],
            "packed, one row": [Collator()(pack(found, 100))],
        }
        for name, parts in batches.items():
            losses = [response_loss(model, part) for part in parts]
            assert sum(count for _, count in losses) == labels, name
            assert sum(loss.item() for loss, _ in losses) == pytest.approx(wanted.item(), rel=tolerance), name
            assert losses[0][0].dtype == dtype


@pytest.mark.parametrize("kind", ["linear", "random_init"])
def test_gradients_agree_with_and_without_checkpointing(kind):
    found, gradients = examples(), []
    for batch in (Collator(length=20)(found), Collator()(pack(found, 24))):
        for reentrant in (None, False, True):
            model = adapted(tiny(dtype=torch.float64), prompt=kind).train()
            if reentrant is not None:
                model.activation_checkpointing_enable({"use_reentrant": reentrant})
            response_loss(model, batch)[0].backward()
            trained = [p.grad for p in model.parameters() if p.requires_grad]
            assert all(gradient.abs().max() > 1e-3 for gradient in trained)
            gradients.append(torch.cat([gradient.flatten() for gradient in trained]))
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_what_it_does_to_logits(family):
    # Gemma 2's own attention has no float64: a row that is all masked becomes NaN.
    dtype, tolerance = (torch.float32, 2e-6) if family == "gemma2" else (torch.float64, 1e-12)
    model = adapted(tiny(family, dtype))
    found = examples()
    wanted = padded_loss(model, Collator()(found)).item()
    for batch in (Collator()(found), Collator()(pack(found, 24))):
        assert response_loss(model, batch)[0].item() == pytest.approx(wanted, rel=tolerance)


def test_soft_capped_logits_matter():
    batch = Collator()(examples())
    losses = [response_loss(tiny("gemma2", final_logit_softcapping=cap), batch)[0].item() for cap in (None, 0.5)]
    assert abs(losses[0] - losses[1]) > 1


def test_logits_are_computed_only_for_labels():
    model, batch, shapes = tiny(), Collator()(examples()), []
    model.lm_head.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    _, count = response_loss(model, batch)
    assert shapes == [(count, 97)]
    assert count == int((batch["labels"] >= 0).sum())
    assert not model.lm_head._forward_pre_hooks


def peft_model(config, dtype=torch.float64):
    import peft

    torch.manual_seed(1)
    model = peft.get_peft_model(tiny(dtype=dtype), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.double()


def test_peft_lora():
    import peft

    found = examples()
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM")
    model = peft_model(options)
    wanted = padded_loss(model, Collator()(found)).item()
    for batch in (Collator()(found), Collator()(pack(found, 24))):
        assert response_loss(model, batch)[0].item() == pytest.approx(wanted, rel=1e-12)


def test_peft_prompt_tuning():
    import peft

    found = examples()
    model = peft_model(peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    batch = Collator()(found)
    wanted = model(**batch).loss.item()
    loss, count = response_loss(model, batch)
    assert (loss / count).item() == pytest.approx(wanted, rel=1e-6)
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="prompt learning ignores position_ids"):
        response_loss(model, Collator()(pack(found, 24)))


def test_distributed_wrapper(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = adapted(tiny(dtype=torch.float64))
        batch = Collator()(examples())
        wanted = response_loss(model, batch)[0].item()
        loss, _ = response_loss(torch.nn.parallel.DistributedDataParallel(model), batch)
        assert loss.item() == wanted
        loss.backward()
    finally:
        distributed.destroy_process_group()


def test_batches_that_would_be_wrong_are_refused():
    model, found = tiny(), examples()
    batch = Collator()(found)
    with pytest.raises(ValueError, match="at least one label"):
        response_loss(model, batch | {"labels": torch.full_like(batch["labels"], IGNORED)})
    with pytest.raises(ValueError, match="one process per GPU"):
        response_loss(torch.nn.DataParallel(model), batch)
    model.config._attn_implementation_internal = "zero_init_flash_attention_2"
    with pytest.raises(ValueError, match=r"zero_init_flash_attention_2 a packed batch must be one row.*got 3 rows"):
        response_loss(model, Collator()(pack(found, 24)))
    assert not model.lm_head._forward_pre_hooks
