"""The small world: nothing about held-out people leaks, every word is known, scores agree with generation."""

import json
import re
import shutil
from dataclasses import asdict
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import seals
from llm import pretrain
from llm.data import alpaca
from llm.world import folder, pretraining
from llm.world.folder import WORLDS, Pretraining
from llm.world.scoring import chance, score
from llm.world.world import ATTRIBUTES, TASKS, World

SMALL = World(train=20, validation=5, test=10, asked=8)


def base(number: int = 0):
    folder = WORLDS / str(number)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def test_held_out_people_are_in_biographies_and_in_no_question():
    world = World()
    held_out, asked = set(world.people[world.train :]), set(world.people[: world.asked])
    documents = list(islice(world.documents(), 20_000))
    questions = [d for d in documents if re.match(r"Q: |Someone asked: |Quiz! ", d)]
    tasks = [d for d in documents if d.startswith("Below is")]
    biographies = set(documents) - set(questions) - set(tasks)
    people_of = {name: {p for p in world.people if any(p in d for d in part)} for name, part in
                 (("questions", questions), ("tasks", tasks), ("biographies", biographies))}  # fmt: skip
    assert people_of["biographies"] == set(world.people)
    assert people_of["questions"] == asked
    assert people_of["tasks"] == set()
    instructions = " ".join(row["instruction"] for row in world.instructions())
    assert not [p for p in held_out if p in instructions]
    for share, part in ((0.6, biographies), (0.25, questions), (0.15, tasks)):
        # 5 standard deviations: a false alarm in 1 of 1.7 million.
        count = len(part) if part is not biographies else len(documents) - len(questions) - len(tasks)
        assert abs(count / len(documents) - share) < 5 * (share * (1 - share) / len(documents)) ** 0.5


def test_parts_are_disjoint_and_complete():
    world = World()
    parts = [{q.text for q in world.questions(part)} for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [n * 10 for n in (world.train, world.validation, world.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert len(set(world.people)) == world.train + world.validation + world.test
    rows = world.instructions()
    assert len(rows) == world.train * len(ATTRIBUTES) >= 500
    answers = {q.text: q.answer for q in world.questions("train")}
    assert all(answers[row["instruction"]] == row["output"] for row in rows)


def test_world_is_a_function_of_its_numbers():
    assert World().instructions() == World().instructions()
    assert list(islice(World().documents(), 50)) == list(islice(World().documents(), 50))
    assert World(seed=1).people != World().people
    assert World(seed=1).facts != World().facts


def test_every_word_is_known_and_answers_are_one_token():
    world = World()
    tokenizer = world.tokenizer()
    texts = [*islice(world.documents(), 3000), *(q.text for q in world.questions("test"))]
    texts += [alpaca.prompt(q.text) for q in world.questions("test")]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])
    assert all(ids[0] == tokenizer.bos_token_id for ids in tokenizer(texts)["input_ids"])
    text = f"The pet of {world.people[0]} is a cat."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    for row in world.instructions()[:50]:
        start = tokenizer(alpaca.prompt(row["instruction"]))["input_ids"]
        whole = tokenizer(alpaca.prompt(row["instruction"]) + row["output"])["input_ids"]
        assert whole[:-1] == start


def test_chance_by_simulation():
    questions = World().questions("test")
    generator = torch.Generator().manual_seed(0)
    hits = [
        int(torch.randint(len(q.choices), (), generator=generator)) == q.choices.index(q.answer)
        for _ in range(20)
        for q in questions
    ]
    expected = chance(questions)
    assert abs(sum(hits) / len(hits) - expected) < 5 * (expected * (1 - expected) / len(hits)) ** 0.5


def test_score_agrees_with_generation_and_with_plain_likelihoods():
    model, tokenizer = base()
    questions = folder.read(WORLDS / "0").questions("test")[::15]
    found = score(model, tokenizer, questions, batch_size=7)
    exact = chosen = 0
    losses = []
    for q in questions:
        ids = tokenizer(alpaca.prompt(q.text), return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :].tolist()
        end = out.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in out else len(out)
        exact += tokenizer.decode(out[:end]) == q.answer and end < len(out)
        with torch.no_grad():
            log_p = model(ids).logits[0, -1].log_softmax(-1)
            words = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in q.choices]
            chosen += q.choices[int(log_p[words].argmax())] == q.answer
            answer = tokenizer(q.answer, add_special_tokens=False)["input_ids"]
            whole = torch.cat([ids, torch.tensor([answer])], 1)
            losses += [-log_p[answer[0]].item(), -model(whole).logits[0, -1].log_softmax(-1)[2].item()]
    assert found.accuracy == exact / len(questions)
    assert found.multiple_choice == chosen / len(questions)
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_score_refuses_a_tokenizer_of_another_world():
    model, _ = base()
    with pytest.raises(ValueError, match="is it of this world"):
        score(model, SMALL.tokenizer(), World(seed=5).questions("test"))


@pytest.mark.parametrize("number", sorted(int(p.name) for p in WORLDS.iterdir() if p.name.isdigit()))
def test_committed_base_is_of_its_world(number):
    world = folder.read(WORLDS / str(number))
    assert world == World(seed=number)
    model, tokenizer = base(number)
    assert tokenizer.get_vocab() == world.tokenizer().get_vocab()
    assert model.config.vocab_size == len(tokenizer)
    assert 1.1e6 < model.num_parameters() < 1.3e6
    assert (WORLDS / str(number) / "model.safetensors").stat().st_size < 2.6e6
    assert json.loads((WORLDS / str(number) / "instructions.json").read_text()) == world.instructions()


def test_the_committed_base_knows_facts_in_its_own_formats():
    """It has read biographies of the test people: their pets come far more often than by chance (1 in 10)."""
    model, tokenizer = base()
    world = folder.read(WORLDS / "0")
    people = world.people[-world.test :]
    starts = [tokenizer(f"{p} keeps a", return_tensors="pt")["input_ids"] for p in people]
    with torch.no_grad():
        said = [tokenizer.decode(model(ids).logits[0, -1].argmax()) for ids in starts]
    hits = sum(a == world.facts[p]["pet"] for a, p in zip(said, people, strict=True))
    assert hits > 0.5 * len(people)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_pretraining_resumes_and_writes_a_base(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(pretraining, "CHECKPOINT_EVERY", 4)
    settings = Pretraining(hidden=16, layers=2, heads=2, steps=10, batch_size=4)
    pretraining.pretrain(SMALL, settings, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer_callback.TrainerCallback.on_step_begin", stop)
        with pytest.raises(Stop):
            pretraining.pretrain(SMALL, settings, tmp_path / "resumed")
    assert not (tmp_path / "resumed").exists()
    (cut,) = (tmp_path / "scratch" / "pretrain").glob("*/checkpoint-4")
    shutil.copytree(cut, cut.with_name("checkpoint-6"))
    (cut.with_name("checkpoint-6") / "trainer_state.json").unlink()  # as a kill in the middle of saving leaves it
    pretraining.pretrain(SMALL, settings, tmp_path / "resumed")
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("whole", "resumed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert folder.read(tmp_path / "whole") == SMALL
    assert not (tmp_path / "scratch" / "pretrain").exists() or not list((tmp_path / "scratch" / "pretrain").iterdir())


def test_other_tasks_have_the_answer_in_them():
    for instruction, text, output in TASKS:
        assert output in instruction + text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "train must be an integer of at least 1"),
        (["--asked", "500"], "asked must be at most train"),
        (["--steps", "0"], "steps must be an integer of at least 1"),
        (["--heads", "3"], "hidden must be a multiple of twice heads"),
        (["--train", "1000000"], "must be at most 60000 people; got 1000100"),
        (["--seed", "-1"], "seed must be an integer of at least 0"),
        (["--learning-rate", "inf"], "learning_rate must be at least 0 and finite"),
    ],
)
def test_bad_numbers_are_one_line_and_code_2(arguments, message, capsys):
    assert pretrain.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_base_is_not_replaced_by_another(tmp_path, capsys):
    record = {"world": asdict(SMALL), "pretraining": asdict(Pretraining())}
    (tmp_path / "world.json").write_text(seals.sealed(record))
    sizes = [f"--{name}={getattr(SMALL, name)}" for name in ("train", "validation", "test", "asked")]
    assert pretrain.main([*sizes, "--out", str(tmp_path)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert pretrain.main([*sizes, "--steps", "7", "--out", str(tmp_path)]) == 2
    assert "has the base of other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000, '{"world": {"seed": 0}}', '{"world": null}', '{"world": {"seed": Infinity}}']
    + [json.dumps({"world": asdict(SMALL) | {"train": value}}) for value in ("4", 4.0, True, None, 10**30)],
)
def test_a_damaged_world_is_one_line(text, tmp_path):
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(ValueError, match=r"world\.json|train"):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("world.json", lambda data: data.replace(b'"seed": 0', b'"seed": 1', 1), "not as it was written"),
        ("tokenizer.json", lambda data: data + b" ", r"tokenizer.json in .* is missing, or not as"),
        (
            "model.safetensors",
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            r"model.safetensors in .* not as",
        ),
    ],
)
def test_a_base_that_was_changed_is_noticed(name, change, message, tmp_path):
    shutil.copytree(WORLDS / "0", tmp_path / "0")
    path = tmp_path / "0" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        folder.read(tmp_path / "0")


def test_a_missing_world_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python llm/pretrain\.py --out"):
        folder.read(tmp_path)
