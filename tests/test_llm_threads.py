"""One model, several threads: a pass uses its own input and its own thread's choice of adapter, nothing else."""

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import zeroinit.attention
from tests.llm_helpers import adapted, adapter_of, checkpointing, passes_of_a_text_that_project, tiny, tokens
from zeroinit import gates
from zeroinit.families import attention_modules, query_projection
from zeroinit.model import activate, delete, detach, disabled


def together(*tasks: Callable) -> list:
    """Results of the tasks, each in a thread of its own; a failure is raised here."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def nothing(_) -> None:
    """What a hook returns that changes nothing."""


def two_adapters(depth: int = 4, **options):
    """One model with adapters one (active) and two; logits of base, one and two for `tokens()`."""
    model, ids, logits = tiny(num_hidden_layers=depth), tokens(), {}
    logits["base"] = model(ids).logits
    for name in ("two", "one"):
        logits[name] = adapted(model, name=name, **options)(ids).logits
        adapter_of(model, name).gate.data.mul_(1.0 if name == "one" else -1.0)
    logits["one"], logits["two"] = model(ids).logits, activate(model, "two")(ids).logits
    return activate(model, "one"), logits


def meet_after_queries(model, parties: int) -> None:
    """Every thread waits for the others in each layer, when its queries are there and its attention has not begun."""
    barrier = threading.Barrier(parties, timeout=60)
    for _, module in attention_modules(model):
        query_projection(module).register_forward_hook(lambda *_: nothing(barrier.wait()))


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
@torch.no_grad()
def test_the_input_dependent_gate_reads_its_own_queries(family):
    model, texts = adapted(tiny(family), gate="adapt"), [tokens(2, 11, seed) for seed in (1, 2, 3)]
    alone = [model(text).logits for text in texts]
    meet_after_queries(model, 3)
    found = together(*(lambda text=text: model(text).logits for text in texts))
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_disabled_and_active_adapter_belong_to_a_thread():
    model, logits = two_adapters()
    barrier = threading.Barrier(4, timeout=60)
    ids = tokens()

    def untouched():
        barrier.wait()
        out = model(ids).logits
        barrier.wait()
        return out

    def switched(name):
        activate(model, name)
        return untouched()

    def off():
        with disabled(model):
            out = untouched()
        return out, model(ids).logits

    none, one, two, (base, after) = together(untouched, lambda: switched("one"), lambda: switched("two"), off)
    for found, name in ((none, "one"), (one, "one"), (two, "two"), (base, "base"), (after, "one")):
        assert torch.equal(found, logits[name])
    assert torch.equal(model(ids).logits, logits["one"])
    activate(model, "two")
    assert torch.equal(together(lambda: model(ids).logits)[0], logits["two"])  # this thread decides for new ones
    with disabled(model):
        assert torch.equal(together(lambda: model(ids).logits)[0], logits["two"])
        activate(model, "one")
        assert torch.equal(model(ids).logits, logits["base"])
    assert torch.equal(model(ids).logits, logits["one"])


@torch.no_grad()
def test_tasks_of_one_event_loop_do_not_share_their_choice():
    model, logits = two_adapters()

    async def answer(name):
        if name == "base":
            with disabled(model):
                await asyncio.sleep(0)
                return model(tokens()).logits
        activate(model, name)
        await asyncio.sleep(0)
        return model(tokens()).logits

    async def serve():
        return await asyncio.gather(*map(answer, logits))

    for name, found in zip(logits, asyncio.run(serve()), strict=True):
        assert torch.equal(found, logits[name])


@torch.no_grad()
def test_a_forward_pass_keeps_the_adapter_it_began_with():
    model, logits = two_adapters()
    activate(model, "one")
    module = attention_modules(model)[3][1]
    hook = module.register_forward_pre_hook(lambda *_: nothing(activate(model, "two")))
    assert torch.equal(model(tokens()).logits, logits["one"])
    hook.remove()
    assert torch.equal(model(tokens()).logits, logits["two"])


@pytest.mark.parametrize("prompt", ["linear", "nonlinear", "random_init"])
def test_generation_in_several_threads(prompt, monkeypatch):
    """Each step waits for the other thread's; prompts are still projected once for each text and layer."""
    model, barrier, calls = adapted(tiny(), prompt=prompt), threading.Barrier(3, timeout=60), []

    def wait(ids, scores):
        barrier.wait()
        return scores

    def generate(text, processors=()):
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "logits_processor": [*processors]}
        return model.generate(text, attention_mask=torch.ones_like(text), **options)

    texts = [tokens(2, length, seed=length) for length in (1, 4, 7)]
    alone = [generate(text) for text in texts]
    project = zeroinit.attention.project_prompts
    monkeypatch.setattr(zeroinit.attention, "project_prompts", lambda *a: calls.append(1) or project(*a))
    found = together(*(lambda text=text: generate(text, [wait]) for text in texts))
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one, other)
    assert len(calls) == 3 * 2 * passes_of_a_text_that_project()


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointed_layers_are_computed_again_as_they_were(reentrant, gate):
    """Backward runs in another thread, and after this one has changed its mind."""
    results = []
    for checkpointed in (False, True):
        model, _ = two_adapters(gate=gate)
        model.train()
        if checkpointed:
            checkpointing(model, reentrant)
        ids = tokens()

        def forward(model=model, ids=ids):
            activate(model, "two")
            return model(ids, labels=ids, use_cache=False).loss

        (loss,) = together(forward)
        with disabled(model):
            together(loss.backward)
        results.append([p.grad for p in adapter_of(model, "two").parameters()])
        assert all(p.grad is None for p in adapter_of(model, "one").parameters())
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_a_checkpointed_pass_without_adapter_has_no_adapter_in_backward(reentrant):
    model = adapted(tiny()).train()
    checkpointing(model, reentrant)
    embedded = model.get_input_embeddings()(tokens()).detach()
    gradients = []
    for net in (tiny().train(), model):
        net.zero_grad()
        source = embedded.clone().requires_grad_(True)
        if net is model:
            with disabled(model):
                loss = model(inputs_embeds=source, use_cache=False).logits.square().mean()
        else:
            loss = net(inputs_embeds=source, use_cache=False).logits.square().mean()
        loss.backward()
        gradients.append(source.grad)
    assert torch.equal(*gradients)
    assert all(p.grad is None for p in adapter_of(model).parameters())


def replicas(model, count: int) -> list:
    """What torch.nn.DataParallel makes of a model, on one device and with shared parameters."""
    made = []
    for _ in range(count):
        copies = {module: module._replicate_for_data_parallel() for module in model.modules()}
        for module, twin in copies.items():
            twin._modules = {name: child and copies[child] for name, child in module._modules.items()}
            vars(twin).update(module._parameters)
        made.append(copies[model])
    return made


@pytest.mark.parametrize("gate", ["head", "adapt"])
@torch.no_grad()
def test_replicas_of_data_parallel(gate):
    model = adapted(tiny(), gate=gate)
    texts = [tokens(2, 11, seed) for seed in (1, 2)]
    alone = [model(text).logits for text in texts]
    barrier, made = threading.Barrier(2, timeout=60), replicas(model, 2)

    def run(twin, text):
        barrier.wait()
        return twin(text).logits

    found = together(*(lambda pair=pair: run(*pair) for pair in zip(made, texts, strict=True)))
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    with disabled(model), pytest.raises(ValueError, match=r"DataParallel.*disabled\(\)"):
        replicas(model, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@torch.no_grad()
def test_compiled_models_notice_every_choice():
    model, logits = two_adapters(2)
    compiled = torch.compile(model, backend="eager")
    ids = tokens()

    def off():
        with disabled(model):
            return compiled(ids).logits

    def switched(name):
        activate(model, name)
        return compiled(ids).logits

    def equal(found, name):
        torch.testing.assert_close(found, logits[name], rtol=1e-5, atol=1e-5)

    equal(compiled(ids).logits, "one")
    equal(switched("two"), "two")
    equal(off(), "base")
    equal(compiled(ids).logits, "two")
    with disabled(model):
        equal(compiled(ids).logits, "base")
        equal(together(lambda: compiled(ids).logits)[0], "two")
    equal(together(lambda: switched("one"))[0], "one")
    equal(compiled(ids).logits, "two")


@torch.no_grad()
def test_measuring_the_prompts_share_leaves_other_threads_alone():
    for options in ({"gate": "adapt"}, {"prompt": "random_init"}):
        model, ids = adapted(tiny(), **options), tokens()
        logits, mass = model(ids).logits, gates.prompt_mass(model, ids)
        started, go_on = threading.Event(), threading.Event()

        def pause(*_, started=started, go_on=go_on):
            if threading.current_thread() is not threading.main_thread():
                started.set()
                assert go_on.wait(60)

        attention_modules(model)[3][1].register_forward_pre_hook(pause)
        with ThreadPoolExecutor(1) as pool:
            measured = pool.submit(gates.prompt_mass, model, ids)
            assert started.wait(60)
            assert torch.equal(model(ids + 1).logits, model(ids + 1).logits)
            assert torch.equal(model(ids).logits, logits)
            go_on.set()
            assert torch.equal(measured.result(), mass)


@torch.no_grad()
def test_an_adapter_deleted_under_a_thread():
    model, logits = two_adapters()
    step = threading.Barrier(2, timeout=60)

    def worker():
        activate(model, "two")
        step.wait()
        step.wait()
        with pytest.raises(ValueError, match=r"'two' that this thread had activated was deleted; .* one of: one"):
            model(tokens())
        activate(model, "one")
        return model(tokens()).logits

    def main():
        step.wait()
        delete(model, "two")
        step.wait()
        return model(tokens()).logits

    assert all(torch.equal(found, logits["one"]) for found in together(worker, main))


@torch.no_grad()
def test_a_copy_begins_with_the_adapter_in_use_and_no_other_choice():
    model, logits = two_adapters()

    def twin():
        activate(model, "two")
        with disabled(model):
            return copy.deepcopy(model)

    (other,) = together(twin)
    assert torch.equal(other(tokens()).logits, logits["two"])
    assert torch.equal(model(tokens()).logits, logits["one"])
    activate(other, "one")
    assert torch.equal(together(lambda: other(tokens()).logits)[0], logits["one"])
    detach(model)
    assert torch.equal(model(tokens()).logits, logits["base"])
    assert torch.equal(other(tokens()).logits, logits["one"])
