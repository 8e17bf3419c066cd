"""A tiny model with a tokenizer, as a folder, and items for it: for the tests of evaluation and generation."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm.data.tokens import token_ids
from tests.llm_helpers import tiny


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte, after <s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: n for n, letter in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def save_model(folder, context: int = 512, **options):
    """A tiny random model with a byte tokenizer, as a folder."""
    model = tiny("llama", vocab_size=259, max_position_embeddings=context, **options)
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # answers of letters, without an end
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_items(folder, count: int = 12) -> None:
    """ARC items of different lengths, some too long for a context of 512."""
    lines = []
    for n in range(count):
        question = f"Question {n}, " + "why? " * (n * n % 11) + "more " * (100 * (n == 7))
        choices = [
            {"text": f"{word} {n}", "label": label} for word, label in zip(("one", "two", "six"), "ABC", strict=True)
        ]
        lines.append({"id": f"i{n}", "question": {"stem": question, "choices": choices}, "answerKey": "ABC"[n % 3]})
    folder.mkdir(exist_ok=True)
    (folder / "ARC-Easy-Test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def ids_of(tokenizer, text: str) -> list[int]:
    """Token ids of one prompt."""
    ids = token_ids(tokenizer, text)
    return ids


def arguments(base, out, *more: str) -> list[str]:
    return ["--model", str(base), "--data", str(base / "data"), "--tasks", "arc_easy", "--out", str(out), *more]
