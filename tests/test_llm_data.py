"""Instruction data and the loss on the response: by two routes, on real rows, and every error."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm.data import (
    FRACTIONS,
    IGNORED,
    PROMPT_WITH_INPUT,
    Collator,
    encode,
    fraction,
    hold_out,
    pack,
    prompt,
    read,
)
from llm.loss import response_loss
from tests.llm_helpers import FAMILIES, adapted, data, tiny, tokens

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
ROWS = [{"instruction": f"say {n}", "input": "", "output": f"number {n}"} for n in range(50)]


def examples(lengths=(5, 8, 11, 14, 6, 9, 12), vocab: int = 97):
    """Random examples whose first tokens are a prompt."""
    found = []
    for seed, length in enumerate(lengths):
        ids = tokens(1, length, seed, vocab)[0].tolist()
        start = min(2 + seed % 3, length - 1)
        found.append({"input_ids": ids, "labels": [IGNORED] * start + ids[start:]})
    return found


def letters(*more: str, begin: bool = True, end: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer of printable characters and newline, and of pairs merged on top of them."""
    characters = ["<unk>", "<s>", "</s>", "\n", *map(chr, range(32, 127))]
    vocabulary = {piece: number for number, piece in enumerate([*characters, *more])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in more], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    single = ("<s> " if begin else "") + "$A" + (" </s>" if end else "")
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


# Templates and reading


def test_templates_are_the_published_ones():
    assert prompt("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n"
        "### Response:"
    )
    assert prompt("Use {braces} and {input}.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nUse {braces} and {input}.\n\n### Response:"
    )


def test_reads_every_format(tmp_path):
    import pyarrow
    from pyarrow import parquet

    found = [
        {"instruction": "a\u2028b", "input": None, "output": "c", "text": "more"},
        {"instruction": "d", "output": ""},
    ]
    wanted = [{"instruction": "a\u2028b", "input": "", "output": "c"}, {"instruction": "d", "input": "", "output": ""}]
    (tmp_path / "list.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in found) + "\n\n"
    (tmp_path / "lines.JSONL").write_text(lines, encoding="utf-8-sig")
    parquet.write_table(pyarrow.Table.from_pylist(found), tmp_path / "table.parquet")
    for name in ("list.json", "lines.JSONL", "table.parquet"):
        assert read(tmp_path / name) == wanted
        assert read(str(tmp_path / name)) == wanted


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("none.json", None, FileNotFoundError, "no data file at .*none.json; give the path .* or a hub id"),
        ("none", None, FileNotFoundError, "no data file"),
        ("a.json", "[]", ValueError, "a.json must have at least one row; it is empty"),
        ("a.jsonl", "\n", ValueError, "at least one row"),
        ("a.json", '[\n{"instruction": }]', ValueError, "a.json is not JSON at line 2, column 17: Expecting value"),
        ("a.json", '{"a": 1}\n{"a": 2}', ValueError, "line 2.* must end in .jsonl"),
        ("a.json", '{"a": 1}', ValueError, "must hold one list of rows; got dict"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{"instr', ValueError, "not JSON at line 2, column 2"),
        ("a.json", '[{"question": "a", "answer": "b"}]', ValueError, "instruction and output .* has question, answer"),
        ("a.json", "[{}]", ValueError, "row 1 of .* has none"),
        ("a.json", '["text"]', ValueError, "row 1 of .* has a str"),
        ("a.json", '[{"instruction": "a", "output": 7}]', ValueError, "output must be a string; row 1 of .* has 7"),
        ("a.json", b"[\xff]", ValueError, "must be UTF-8 text"),
        ("a.csv", "a,b", ValueError, "must end in .json, .jsonl, .parquet; got .*a.csv"),
        ("a.parquet", "no table", ValueError, "damaged or not a Parquet file"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path, name, text, error, words):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=f"(?s){words}") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_hub_without_a_network_says_how_to_give_a_path(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConnectionError, match=r"no local file nobody/nothing, and the hub .* give the path of its \.json"
    ):
        read("nobody/nothing")


def test_hub_rows_and_splits(monkeypatch):
    import datasets

    def load_dataset(name, split):
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return datasets.Dataset.from_list([{**ROWS[0], "text": name}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("tatsu-lab/alpaca") == ROWS[:1]
    with pytest.raises(ValueError, match="tatsu-lab/alpaca must have a split 'dev': Unknown split"):
        read("tatsu-lab/alpaca", "dev")


# Encoding


def test_labels_are_the_response_and_the_end():
    tokenizer = letters()
    found, report = encode([{"instruction": "i", "input": "x", "output": "ok"}], tokenizer)
    assert len(found) == report.kept == 1
    ids, labels = found[0]["input_ids"], found[0]["labels"]
    assert tokenizer.decode(ids) == "<s>" + PROMPT_WITH_INPUT.format(instruction="i", input="x") + "ok</s>"
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "ok</s>"
    assert labels[-3:] == ids[-3:]
    assert labels[:-3] == [IGNORED] * (len(ids) - 3)


def test_begin_and_end_follow_the_tokenizer_once():
    plain = encode(ROWS, letters()).examples
    assert encode(ROWS, letters(end=True)).examples == plain
    without = encode(ROWS, letters(begin=False)).examples
    assert [e["input_ids"] for e in without] == [e["input_ids"][1:] for e in plain]
    assert [e["labels"] for e in without] == [e["labels"][1:] for e in plain]


def test_length_truncates_skips_and_counts():
    tokenizer = letters()
    row = {"instruction": "i", "input": "", "output": "four"}
    size = len(tokenizer(prompt("i"))["input_ids"])
    short = {"instruction": "", "input": "", "output": ""}
    for room, kept, truncated, text in ((5, 2, 0, "four</s>"), (4, 2, 1, "four"), (1, 2, 1, "f"), (0, 1, 0, None)):
        found, report = encode([row, short], tokenizer, size + room)
        counts = {"rows": 2, "kept": kept, "skipped": 2 - kept, "truncated": truncated, "empty": 1, "merged": 0}
        assert {name: getattr(report, name) for name in counts} == counts
        assert report.tokens == sum(len(e["input_ids"]) for e in found)
        assert report.labels == sum(label != IGNORED for e in found for label in e["labels"])
        assert found[-1]["labels"][-2:] == [IGNORED, tokenizer.eos_token_id]
        if text is not None:
            assert tokenizer.decode(found[0]["labels"][size:]) == text
    line = str(report)
    assert "\n" not in line
    assert line.startswith(f"2 rows: 1 kept, 1 skipped (prompt of {size} tokens or more), 0 cut at {size} tokens")
    with pytest.raises(ValueError, match=f"shorter than {size - 1} tokens; none of 2 has; raise the length"):
        encode([row, short], tokenizer, size - 1)
    with pytest.raises(ValueError, match="none of 0 has"):
        encode([], tokenizer)


def test_a_token_across_the_border_is_the_prompts():
    tokenizer = letters(":)")
    found, report = encode([{"instruction": "i", "input": "", "output": ") yes"}], tokenizer)
    assert report.merged == 1
    assert tokenizer.decode([label for label in found[0]["labels"] if label != IGNORED]) == " yes</s>"
    assert encode(ROWS, tokenizer).report.merged == 0


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = letters()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have an eos_token"):
        encode(ROWS, tokenizer)


def test_numbers_on_real_alpaca_recounted():
    """Recounted with the bare tokenizer, row by row, from the template typed anew."""
    folder = data("stories260K", "tokenizer.json").parent
    path = data("alpaca", "alpaca_random_9k.json")
    found, report = encode(read(path), AutoTokenizer.from_pretrained(folder))
    bare, expected, end = Tokenizer.from_file(str(folder / "tokenizer.json")), Counter(), 2
    number = 0
    for row in json.loads(path.read_text()):
        text = "Below is an instruction that describes a task"
        text += ", paired with an input that provides further context. " if row["input"] else ". "
        text += "Write a response that appropriately completes the request.\n\n### Instruction:\n" + row["instruction"]
        text += ("\n\n### Input:\n" + row["input"] if row["input"] else "") + "\n\n### Response:"
        start, whole = len(bare.encode(text).ids), [*bare.encode(text + row["output"]).ids, end]
        expected["rows"] += 1
        if start >= 512:
            expected["skipped"] += 1
            continue
        expected["kept"] += 1
        expected["empty"] += row["output"] == ""
        expected["truncated"] += len(whole) > 512
        expected["tokens"] += min(len(whole), 512)
        expected["labels"] += min(len(whole), 512) - start
        assert found[number]["input_ids"] == whole[:512]
        assert found[number]["labels"] == [IGNORED] * start + whole[start:512]
        number += 1
    assert {name: getattr(report, name) for name in expected} == expected
    assert expected["truncated"] > 0
    assert expected["skipped"] > 0
    assert expected["rows"] == 9229
    assert expected["empty"] == 4


# Splits


def test_held_out_rows_are_disjoint_and_seeded():
    train, validation = hold_out(ROWS, 10, seed=1)
    assert len(validation) == 10
    assert sorted(train + validation, key=ROWS.index) == ROWS
    assert validation == sorted(validation, key=ROWS.index)
    assert (train, validation) == hold_out(ROWS, 10, seed=1)
    assert validation != hold_out(ROWS, 10, seed=2)[1]
    assert hold_out(ROWS, 0, seed=0) == (ROWS, [])
    for count in (50, 51, -1):
        with pytest.raises(ValueError, match=f"fewer than the 50 rows there are; got {count}"):
            hold_out(ROWS, count, seed=0)


def test_repeated_rows_stay_on_one_side():
    rows = [{**row, "output": f"{row['output']}, {copy}"} for row in ROWS for copy in range(3)]
    rows += [{"instruction": row["instruction"], "input": "other", "output": ""} for row in ROWS]
    for seed in range(20):
        train, validation = hold_out(rows, 40, seed)
        assert len(validation) == 40
        seen = [{(row["instruction"], row["input"]) for row in side} for side in (train, validation)]
        assert not seen[0] & seen[1]
    with pytest.raises(ValueError, match=r"1 validation rows must not share .* holds out 0"):
        hold_out(ROWS[:1] * 5, 1, seed=0)


def test_fractions_are_nested_by_seed():
    rows = list(range(500))
    subsets = [fraction(rows, share, seed=3) for share in FRACTIONS]
    assert [len(subset) for subset in subsets] == [5, 50, 150, 250, 500]
    for smaller, larger in pairwise(subsets):
        assert set(smaller) < set(larger)
        assert smaller == sorted(smaller)
    assert subsets[1] != fraction(rows, 0.1, seed=4)
    assert subsets[-1] == rows
    # Every row is as likely as any other: 400 draws of 10 %, five standard deviations of a binomial count.
    count = Counter(row for seed in range(400) for row in fraction(rows, 0.1, seed))
    assert max(abs(count[row] - 40) for row in rows) < 5 * (400 * 0.1 * 0.9) ** 0.5


def test_fractions_round_half_up_and_keep_a_row():
    for total, share, size in ((50, 0.29, 15), (150, 0.01, 2), (149, 0.01, 1), (10, 0.01, 1), (3, 1, 3), (5, 0.1, 1)):
        assert len(fraction(range(total), share, seed=0)) == size
    for share in (0, -0.1, 1.01, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"above 0 and at most 1; got {share}; a tenth of the rows is 0.1"):
            fraction(ROWS, share, seed=0)
    with pytest.raises(ValueError, match="at least one row"):
        fraction([], 0.5, seed=0)


# Batches


def test_padding():
    found = examples()
    batch = Collator(pad_token_id=7)(found)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), (7, 14)
    )
    for number, example in enumerate(found):
        size = len(example["input_ids"])
        assert batch["input_ids"][number].tolist() == example["input_ids"] + [7] * (14 - size)
        assert batch["labels"][number].tolist() == example["labels"] + [IGNORED] * (14 - size)
        assert batch["attention_mask"][number].tolist() == [1] * size + [0] * (14 - size)
    assert Collator(pad_to_multiple_of=8)(found)["labels"].shape == (7, 16)
    assert Collator(length=20)(found)["labels"].shape == (7, 20)
    with pytest.raises(ValueError, match="at most 13 tokens, the length of the batch; got 14"):
        Collator(length=13)(found)


def test_packing_keeps_every_example_whole():
    found = examples([1 + number % 23 for number in range(200)])
    rows = pack(found, 40)
    unpacked = []
    for row in rows:
        starts = [number for number, position in enumerate(row["position_ids"]) if position == 0]
        assert len(row["input_ids"]) <= 40
        for start, stop in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
            assert row["position_ids"][start:stop] == list(range(stop - start))
            assert row["labels"][start] == IGNORED
            unpacked.append({name: row[name][start:stop] for name in ("input_ids", "labels")})
    wanted = [example | {"labels": [IGNORED, *example["labels"][1:]]} for example in found]
    assert sorted(unpacked, key=str) == sorted(wanted, key=str)
    assert len(rows) == -(-sum(len(example["input_ids"]) for example in found) // 40)  # no row more than must be
    with pytest.raises(ValueError, match="at least that of the longest example, 23; got 22"):
        pack(found, 22)
    assert pack([]) == []


# The loss


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
