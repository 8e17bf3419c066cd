"""Generated answers: literal loops, seeds, batches; what a fingerprint and the records of long work must do."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig
from transformers.generation import TopPLogitsWarper

from common import journal
from llm.evaluation.decoding import Nucleus, _text_behind, generate
from llm.evaluation.settings import DECODINGS, Decoding
from llm.methods import loading, registry
from tests.llm_evaluation import byte_tokenizer, ids_of
from tests.llm_helpers import adapted, data, tiny

PUBLISHED = DECODINGS["published"]


def test_nucleus_takes_the_token_that_the_inverse_distribution_function_gives():
    scores = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)) * 3
    draws = np.random.default_rng(0).random((5, 40)).astype(np.float32)
    settings = Decoding(temperature=0.7, top_p=0.8)
    sampler = Nucleus(torch.from_numpy(draws), settings)
    for step in range(40):
        taken = sampler(torch.zeros(5, 3), scores).argmax(-1)
        for row in range(5):
            weights = np.exp(scores[row].double().numpy() / 0.7)
            weights /= weights.sum()
            kept, before = [], 0.0
            for token in np.argsort(-weights, kind="stable"):
                if before > 0.8:
                    break
                kept.append(token)
                before += weights[token]
            aim, place = draws[row, step] * before, 0
            behind = np.cumsum(weights[kept])
            while behind[place] <= aim and place < len(kept) - 1:
                place += 1
            assert taken[row] == kept[place]


def test_nucleus_keeps_the_tokens_of_transformers_and_their_shares():
    scores = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -3.0]])
    probabilities = TopPLogitsWarper(0.85)(None, scores / 0.9).softmax(-1)[0]
    draws = torch.rand(1, 4000, generator=torch.Generator().manual_seed(1))
    sampler = Nucleus(draws, Decoding(temperature=0.9, top_p=0.85))
    counts = torch.zeros(6)
    for _ in range(4000):
        counts[sampler(torch.zeros(1, 1), scores).argmax()] += 1
    assert (counts > 0).tolist() == (probabilities > 0).tolist()
    kept = probabilities > 0
    statistic = ((counts[kept] - 4000 * probabilities[kept]) ** 2 / (4000 * probabilities[kept])).sum()
    assert kept.sum() == 3
    assert statistic < 13.8  # chi-square of two degrees: one seed in 1,000 is above


@pytest.mark.parametrize(
    "decoding", [Decoding(), PUBLISHED, Decoding(temperature=1.5)], ids=["greedy", "published", "hot"]
)
@pytest.mark.parametrize("prompt", ["linear", "random_init"])
def test_answers_do_not_depend_on_the_rest_of_the_batch(decoding, prompt):
    decoding = Decoding(decoding.temperature, decoding.top_p, max_new_tokens=12, seed=4)
    tokenizer = byte_tokenizer()
    model = adapted(tiny("llama", torch.float64, vocab_size=259), prompt=prompt)
    prompts = [ids_of(tokenizer, text) for text in ("a", "what is this?", "no", "a longer question " * 3)]
    together = generate(model, tokenizer, prompts, decoding, keys=list("wxyz"))
    for n in (2, 0, 3, 1):
        assert generate(model, tokenizer, [prompts[n]], decoding, keys=["wxyz"[n]]) == [together[n]]
    if decoding.temperature > 1:
        assert generate(model, tokenizer, prompts, decoding, keys=list("abcd")) != together


def test_greedy_answers_equal_a_literal_loop_and_stop_at_the_end_token():
    tokenizer = byte_tokenizer()
    model = adapted(tiny("llama", torch.float64, vocab_size=259), gates=2.0)
    with torch.no_grad():
        model.lm_head.weight[2] *= 2.5  # the end token, so that some answers have one
    ended = 0
    for text in ("hello", "what is it", "x", "some more", "last one"):
        ids = ids_of(tokenizer, text)
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + 20 and ids[-1] != 2:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        new = [token for token in ids[start:] if token != 2]
        (answer,) = generate(model, tokenizer, [ids[:start]], Decoding(max_new_tokens=20))
        assert answer == (tokenizer.decode(new, skip_special_tokens=True), ids[-1] != 2)
        ended += not answer.cut
    assert 0 < ended < 5


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
def test_virtual_tokens_of_peft_keep_their_distance_in_a_batch():
    tokenizer = byte_tokenizer()
    model = registry.apply(tiny("llama", torch.float64, vocab_size=259), "prompt_tuning").eval()
    with torch.no_grad():
        for parameter in model.prompt_encoder.parameters():
            parameter.mul_(3.0)
    prompts = [ids_of(tokenizer, text) for text in ("a", "what is this?", "why", "which of these " * 3)]
    together = generate(model, tokenizer, prompts, Decoding(max_new_tokens=10))
    for start, answer in zip(prompts, together, strict=True):
        ids = list(start)
        with torch.no_grad():
            for _ in range(10):
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer.text == tokenizer.decode(ids[len(start) :], skip_special_tokens=True).split("</s>")[0]


# Values that change or break a generation that follows them; every other field of GenerationConfig gets a 3.
MODEL_SETTINGS = {
    "assistant_early_exit": 2,
    "bad_words_ids": [[n] for n in range(3, 200)],
    "begin_suppress_tokens": list(range(3, 200)),
    "cache_implementation": "static",
    "compile_config": {"mode": "reduce-overhead"},
    "constraints": [1],
    "do_sample": True,
    "dola_layers": "low",
    "early_stopping": "never",
    "encoder_repetition_penalty": 9.0,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "exponential_decay_length_penalty": (1, 9.0),
    "force_words_ids": [[7]],
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 9,
    "guidance_scale": 1.5,
    "max_time": 0.0,
    "min_p": 0.9,
    "no_repeat_ngram_size": 1,
    "num_return_sequences": 2,
    "penalty_alpha": 0.6,
    "repetition_penalty": 5.0,
    "return_dict_in_generate": True,
    "sequence_bias": [[[5], 50.0]],
    "speculation_type": "dflash",
    "stop_strings": ["a", "e", "t"],
    "suppress_tokens": list(range(3, 200)),
    "temperature": 9.0,
    "token_healing": True,
    "top_p": 0.1,
    "typical_p": 0.1,
    "use_cache": False,
    "watermarking_config": {"bias": 99.0, "seeding_scheme": "lefthash", "context_width": 1},
    "a_setting_of_some_later_version": 3,
}
FIELDS = sorted({*vars(GenerationConfig()), *MODEL_SETTINGS} - {"eos_token_id"})


@pytest.fixture(scope="module")
def generating():
    return tiny("llama", vocab_size=259), byte_tokenizer()


def by_protocol(model, tokenizer, decoding: Decoding) -> list:
    prompts = [ids_of(tokenizer, text) for text in ("hello hello", "hi")]
    return generate(model, tokenizer, prompts, replace(decoding, max_new_tokens=8), ["a", "b"])


def by_harness(model, tokenizer) -> list:
    from llm.evaluation.harness import _Resumed

    ids = torch.tensor([ids_of(tokenizer, "hello hello")])
    lm = _Resumed(model, tokenizer, 1, Path("absent"), "nq_open")
    return lm._model_generate(
        ids, ids.shape[1] + 8, ["\n"], attention_mask=torch.ones_like(ids), temperature=0.0
    ).tolist()


WAYS = {
    "greedy": lambda *model: by_protocol(*model, Decoding()),
    "sampled": lambda *model: by_protocol(*model, Decoding(temperature=1.5)),
    "harness": by_harness,
}


@pytest.fixture(scope="module")
def undisturbed(generating):
    return {name: way(*generating) for name, way in WAYS.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("field", FIELDS)
def test_no_setting_of_the_model_itself_changes_an_answer(generating, undisturbed, monkeypatch, way, field):
    model, _ = generating
    own = copy.deepcopy(model.generation_config)
    setattr(own, field, MODEL_SETTINGS.get(field, 3))
    monkeypatch.setattr(model, "generation_config", own)
    assert WAYS[way](*generating) == undisturbed[way]


@pytest.mark.parametrize("way", ["greedy", "harness"])
def test_ends_of_the_model_itself_end_an_answer(generating, undisturbed, monkeypatch, way):
    model, _ = generating
    taken = undisturbed["harness"][0][-4]
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=[2, taken]))
    assert WAYS[way](*generating) != undisturbed[way]


def test_answers_end_with_the_context_and_full_prompts_are_refused():
    tokenizer, model = byte_tokenizer(), tiny("llama", vocab_size=259, max_position_embeddings=20)
    ends = [ids_of(tokenizer, text) for text in ("a" * 16, "b")]
    near, _ = generate(model, tokenizer, ends, Decoding(max_new_tokens=9))
    assert near.cut
    assert generate(model, tokenizer, ends[:1], Decoding(max_new_tokens=3)) == [near]  # 17 tokens of 20 are taken
    with pytest.raises(ValueError, match="must leave room for an answer in the model's 20 tokens; got 20"):
        generate(model, tokenizer, [ids_of(tokenizer, "a" * 19)])


def test_text_keeps_the_space_before_its_first_word():
    tokenizer = AutoTokenizer.from_pretrained(data("stories260K", "config.json").parent)
    start = ids_of(tokenizer, "### Response:")
    whole = ids_of(tokenizer, "### Response: a dog")
    assert whole[: len(start)] == start
    assert _text_behind(tokenizer, start, whole[len(start) :]) == " a dog"


def test_fingerprint_changes_with_any_tensor():
    model = adapted(tiny("llama", torch.bfloat16))
    before = loading.fingerprint(model)
    assert before == loading.fingerprint(model)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.mul_(1.01)
        after = loading.fingerprint(model)
        assert after != before
        before = after


def test_gate_activation_replaces_that_of_the_adapter():
    ids = torch.tensor([[5, 6, 7]])
    raw = adapted(tiny(), gates=2.0, gate_activation="identity")
    model = adapted(tiny(), gates=2.0)
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, raw(ids).logits)
        loading.set_gate_activation(model, "identity")
        assert torch.equal(model(ids).logits, raw(ids).logits)
    with pytest.raises(ValueError, match="must be one of tanh, identity"):
        loading.set_gate_activation(model, "relu")
    for other, reason in ((tiny(), "no adapter"), (adapted(tiny(), prompt="random_init"), "random_init prompts")):
        with pytest.raises(ValueError, match=reason):
            loading.set_gate_activation(other, "identity")


def test_journal(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert journal.read(path) == []
    journal.append(path, [{"a": 1, "b": "\u2028é"}, {"a": 2}])
    journal.append(path, [])
    with path.open("a") as file:
        file.write('{"a": 3')
    assert journal.read(path) == [{"a": 1, "b": "\u2028é"}, {"a": 2}]
    assert path.read_text().endswith("}\n")
    path.write_text("no json\n{}\n")
    with pytest.raises(ValueError, match="line 1 is none"):
        journal.read(path)
