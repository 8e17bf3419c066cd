"""Instruction data: real rows recounted, splits, packing, and every error."""

import json
import random
from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm.data.alpaca import IGNORED, PROMPT_WITH_INPUT, encode, prompt
from llm.data.batches import Collator, pack
from llm.data.rows import read
from llm.data.splits import FRACTIONS, fraction, hold_out
from tests.llm_helpers import data, tokens

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
        ("a.json", b"[\xff]", ValueError, "a.json must be a data file, in UTF-8; byte 1 is not"),
        ("a.json", "[" * 100_000, ValueError, "a.json is nested too deeply"),
        (
            "a.jsonl",
            '{"instruction": "a", "output": ' + "1" * 5000 + "}",
            ValueError,
            "line 1, has a number of too many",
        ),
        ("a.json", '[{"instruction": "a", "output": NaN}]', ValueError, "number NaN; all must be finite"),
        ("a.json", '[{"instruction": "a", "output": "b", "output": "c"}]', ValueError, "'output' twice"),
        ("a.json", '[{"instruction": "a\0", "output": "b"}]', ValueError, "NUL byte"),
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


def test_flipped_bits_of_a_parquet_file_are_refused_or_leave_rows_of_text(tmp_path):
    """Pages carry checksums here; a file without them may change a letter, as any text file may."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, write_page_checksum=True)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for number in range(400):
        damaged = bytearray(whole)
        if number % 4:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            found = read(path)
        except ValueError:
            refused += 1
        else:
            assert found == ROWS
    assert refused > 200


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
