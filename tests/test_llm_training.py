"""What trains, when, and in which precision; checkpointing, Trainer and accelerate."""

import copy
import dataclasses
import io
import pickle

import accelerate
import peft
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments

from tests.llm_helpers import adapted, adapter_of, checkpointing, configuration, randomise_gates, tiny, tokens
from zeroinit.adapter import Adapter, BaseShape
from zeroinit.config import AdapterConfig
from zeroinit.model import attach, detach, load, save
from zeroinit.trainer import AdapterTrainer

# PEFT calls this of transformers itself.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
KINDS = ("linear", "nonlinear", "nonlinear_shared", "random_init")


def loss_of(model) -> torch.Tensor:
    ids = tokens()
    return model(ids, labels=ids).loss


def evaluate(model) -> torch.Tensor:
    """What a training script does between steps; litgpt's adapter kept its prompts from here and never trained them."""
    training = model.training
    model.eval()
    with torch.no_grad():
        out = model.generate(tokens(1, 4), max_new_tokens=3, do_sample=False)
        model(tokens())
    model.train(training)
    return out


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("prompt", KINDS)
def test_every_trainable_tensor_has_a_gradient_and_none_of_the_base(prompt, gate):
    model = adapted(tiny(), prompt=prompt, gate=gate).train()
    evaluate(model)
    loss_of(model).backward()
    names = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert names == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names == [name for name, _ in model.named_parameters() if name.startswith("zero_init_adapters.")]
    for name in names:
        assert model.get_parameter(name).grad.abs().max() > 1e-8, name


@pytest.mark.parametrize("prompt", ["linear", "nonlinear", "nonlinear_shared"])
def test_gates_move_first_then_prompts(prompt):
    """At zero gate the prompts' gradient is exactly 0; weight decay would move them all the same, so none here."""
    model = tiny().train()
    attach(model, configuration(prompt))
    evaluate(model)
    start = {name: p.detach().clone() for name, p in adapter_of(model).named_parameters()}
    optimizer = torch.optim.AdamW(adapter_of(model).parameters(), lr=0.1, weight_decay=0.0)
    for step in (1, 2):
        optimizer.zero_grad()
        loss_of(model).backward()
        for name, parameter in adapter_of(model).named_parameters():
            if name == "gate":
                assert parameter.grad.abs().max() > 0
            elif step == 1:
                assert parameter.grad.abs().max() == 0, name
        optimizer.step()
        for name, parameter in adapter_of(model).named_parameters():
            assert torch.equal(parameter, start[name]) == (name != "gate" and step == 1), (name, step)
        evaluate(model)


def test_at_the_published_scale_the_layer_embedding_hardly_trains():
    """Its gradient passes the last map, whose weights are 1e-6: below Adam's epsilon of 1e-8 when training starts."""
    sizes = {}
    for scale in (None, 1.0):
        for dtype in (torch.float32, torch.float16):
            model = tiny(dtype=dtype, hidden_size=256, intermediate_size=64).train()
            torch.manual_seed(0)
            attach(model, AdapterConfig("nonlinear", initial_scale=scale))
            adapter_of(model).gate.data.fill_(2.25e-3)  # where one step of the published rate takes them
            loss_of(model).backward()
            sizes[scale, dtype] = {n: p.grad.abs().max().item() for n, p in adapter_of(model).named_parameters()}
            if dtype == torch.float16:  # the gates' own gradient must not underflow, or nothing would ever train
                assert (adapter_of(model).gate.grad != 0).all()
                if not torch.__version__.startswith("2.7."):  # whose attention in float16 on a CPU is coarser
                    assert sizes[scale, dtype]["gate"] == pytest.approx(sizes[scale, torch.float32]["gate"], rel=0.05)
    for dtype in (torch.float32, torch.float16):
        for name in ("prompts.embedding.weight", "prompts.network.hidden.weight"):
            assert sizes[None, dtype][name] < 1e-8 < 1e-5 < sizes[1.0, dtype][name]
        assert sizes[None, dtype]["prompts.network.output.weight"] > 1e-7


def test_a_scale_that_dead_units_cannot_reach_is_refused():
    """One relu is dead on all inputs about every other time; its weights were infinite then."""
    shape = BaseShape(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, head_dim=8)
    config = configuration("nonlinear", initial_scale=0.1, hidden_width=1, layer_width=1, layers=1)
    refused = 0
    for seed in range(20):
        torch.manual_seed(seed)
        try:
            adapter = Adapter(config, shape)
        except ValueError as error:
            assert "use a greater hidden_width" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert all(parameter.isfinite().all() for parameter in adapter.parameters())
    assert 0 < refused < 20


@pytest.mark.parametrize(
    ("prompt", "options", "scale", "tolerance"),
    [
        ("linear", {}, 1.0, 0.05),
        ("nonlinear", {}, 7e-6, 0.2),
        ("nonlinear_shared", {}, 0.25, 0.2),
        ("nonlinear", {"initial_scale": 0.5}, 0.5, 1e-5),
        ("nonlinear_shared", {"initial_scale": 0.5}, 0.5, 1e-5),
        ("nonlinear", {"initial_scale": 0.5, "activation": "leaky_relu", "hidden_width": 0}, None, None),
        ("nonlinear_shared", {"initial_scale": 0.5, "activation": "gelu", "hidden_width": 8}, 0.5, 1e-5),
    ],
)  # fmt: skip
def test_initial_scale_of_prompts(prompt, options, scale, tolerance):
    torch.manual_seed(0)
    shape = BaseShape(hidden_size=4096, num_hidden_layers=6, num_attention_heads=4, head_dim=8)
    adapter = Adapter(configuration(prompt, **options), shape)
    with torch.no_grad():
        prompts = torch.stack([adapter.prompts_of(layer) for layer in range(2, 6)])
    assert prompts.shape == (4, 10, 4096)
    if scale is None:  # the scale holds before the last activation, which shrinks what is negative
        below = prompts < 0
        before = torch.where(below, prompts / 0.1, prompts)
        assert below.any()
        assert before.std().item() == pytest.approx(0.5, rel=1e-5)
    else:
        assert prompts.std().item() == pytest.approx(scale, rel=tolerance)


@pytest.fixture(autouse=True)
def _forget_mixed_precision():
    """accelerate keeps the precision of the last Trainer in a process-wide state."""
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_stays_finite_where_peft_does_not(dtype):
    def steps(model, count) -> bool:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(count):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
        return bool(loss.isfinite()) and all(bool(p.isfinite().all()) for p in trained)

    for prompt in KINDS:
        model = tiny(dtype=dtype).train()
        attach(model, configuration(prompt))
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype}
        before = loss_of(model).item()
        assert steps(model, 50), prompt
        assert loss_of(model).item() < before, prompt
    config = peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=2, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny(dtype=dtype, num_key_value_heads=4), config)
    assert steps(theirs.train(), 50) == (dtype != torch.float16)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("prompt", KINDS)
def test_checkpointing_gives_identical_gradients(prompt, reentrant):
    results = []
    for checkpointed in (False, True):
        model = adapted(tiny(), prompt=prompt, gate="adapt" if prompt == "linear" else "head").train()
        if checkpointed:
            checkpointing(model, reentrant)
        loss_of(model).backward()
        results.append([p.grad for p in adapter_of(model).parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def rows(count: int = 12) -> list[dict]:
    return [{"input_ids": row.tolist(), "labels": row.tolist()} for row in tokens(count, 9, seed=5)]


def arguments(folder, **changes) -> TrainingArguments:
    options = {
        "max_steps": 6,
        "save_steps": 3,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "logging_steps": 1,
    }
    return TrainingArguments(output_dir=str(folder), **(options | changes))


def fresh(prompt="nonlinear"):
    model = tiny()
    torch.manual_seed(1)
    return attach(model, configuration(prompt, layers=2, initial_scale=1.0))


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("kind", [AdapterTrainer, Trainer])
def test_trainer_resumes_with_identical_weights(kind, tmp_path):
    base = {name: p.clone() for name, p in tiny().named_parameters()}
    whole = fresh()
    kind(whole, arguments(tmp_path / "whole"), train_dataset=rows()).train()
    kind(fresh(), arguments(tmp_path / "part"), train_dataset=rows()).train()
    resumed = fresh()
    randomise_gates(resumed)
    trainer = kind(resumed, arguments(tmp_path / "part"), train_dataset=rows())
    trainer.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-3"))
    assert trainer.state.global_step == 6
    for (name, one), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name
        if name in base:
            assert torch.equal(one, base[name])
    assert adapter_of(whole).gate.abs().min() > 0
    if kind is AdapterTrainer:
        files = {p.name for p in (tmp_path / "whole" / "checkpoint-6").iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "trainer_state.json"} <= files
        assert not {f for f in files if f.startswith(("model", "pytorch_model", "config"))}
        loaded = load(tiny(), tmp_path / "whole" / "checkpoint-6")
        assert torch.equal(loaded(tokens()).logits, whole.eval()(tokens()).logits)


def test_trainer_keeps_the_best_and_refuses_another_adapters_checkpoint(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    model = fresh()
    trainer = AdapterTrainer(model, arguments(tmp_path, **options), train_dataset=rows(), eval_dataset=rows(4))
    trainer.train()
    best = load(tiny(), trainer.state.best_model_checkpoint)
    assert torch.equal(adapter_of(best).gate, adapter_of(model).gate)
    other = AdapterTrainer(fresh("linear"), arguments(tmp_path), train_dataset=rows())
    with pytest.raises(ValueError, match="configuration of the active adapter"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    with pytest.raises(ValueError, match="no adapter"):
        AdapterTrainer(tiny(), arguments(tmp_path))


def test_trainer_refuses_to_lose_a_lora(tmp_path):
    lora = peft.LoraConfig(target_modules=["q_proj"])
    model = attach(peft.get_peft_model(tiny(), lora), AdapterConfig())
    with pytest.raises(ValueError, match=r"saves the adapter alone, and 8 other tensors train too .*lora_A"):
        AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
    AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())


def test_trainer_accepts_a_quantised_base(tmp_path):
    """bitsandbytes needs a GPU; a base that says it is quantised passes the check that the plain Trainer fails."""
    model = fresh()
    model.is_quantized = True
    model.hf_quantizer = type("Quantizer", (), {"is_trainable": True, "is_qat_trainable": False})()
    with pytest.raises(ValueError, match="purely quantized"):
        Trainer(model, arguments(tmp_path), train_dataset=rows())
    AdapterTrainer(model, arguments(tmp_path), train_dataset=rows())
    assert not model._hf_peft_config_loaded


def test_trainer_with_checkpointing_and_autocast(tmp_path):
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    for options in ({name: True}, {"bf16": True}):
        model = fresh()
        AdapterTrainer(model, arguments(tmp_path, **options, max_steps=2), train_dataset=rows()).train()
        assert adapter_of(model).gate.abs().min() > 0


@pytest.mark.parametrize("prompt", ["nonlinear", "random_init"])
def test_accelerate_prepares_and_offloads(prompt, tmp_path):
    model = adapted(tiny(), prompt=prompt)
    expected = model(tokens()).logits
    offloaded = accelerate.cpu_offload(tiny(), execution_device=torch.device("cpu"))
    assert next(offloaded.model.layers[0].parameters()).device.type == "meta"
    save(model, tmp_path)
    load(offloaded, tmp_path)
    assert {p.device.type for p in adapter_of(offloaded).parameters()} == {"cpu"}
    assert torch.equal(offloaded(tokens()).logits, expected)
    prepared = accelerate.Accelerator(cpu=True).prepare(model)
    assert torch.equal(prepared(tokens()).logits, expected)


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_independent(how, gate):
    """Hooks and links of the copy are its own, also when prompts are kept at the time."""
    model = adapted(tiny(), gate=gate)
    evaluate(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    logits = model(tokens()).logits
    assert torch.equal(other(tokens()).logits, logits)
    adapter_of(other).gate.data.zero_()
    assert torch.equal(other(tokens()).logits, tiny()(tokens()).logits)
    assert torch.equal(model(tokens()).logits, logits)
    detach(other)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())
    assert torch.equal(model(tokens()).logits, logits)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("prompt", "gate"), [("linear", "head"), ("nonlinear", "adapt"), ("random_init", "head")])
def test_compiled_model_agrees(prompt, gate, backend):
    """The whole model is one graph, forward and backward."""
    torch._dynamo.reset()
    model = adapted(tiny(), prompt=prompt, gate=gate)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    logits = compiled(tokens()).logits
    compiled(tokens(), labels=tokens()).loss.backward()
    torch.testing.assert_close(logits, model(tokens()).logits, rtol=1e-4, atol=1e-4)
    gradients = [p.grad.clone() for p in adapter_of(model).parameters()]
    model.zero_grad()
    loss_of(model).backward()
    for one, other in zip(gradients, adapter_of(model).parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-5)
