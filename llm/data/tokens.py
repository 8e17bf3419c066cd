"""Token ids of texts, and whether a model can take them."""

from collections.abc import Iterable, Sequence
from typing import Any


def ids_of_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text: begin-of-sequence by the tokenizer's own rule, and no end."""
    found = [list(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
    for ids in found:
        while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text, prompts too
            ids.pop()
    return found


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """`ids_of_texts` of one text."""
    return ids_of_texts(tokenizer, [text])[0]


def check_ids(rows: Iterable[Sequence[int]], tokenizer: Any, vocabulary: int) -> None:
    """Refuse ids that a model has no row in its embedding for, such as those of tokens added to a tokenizer.

    Raises
    ------
    ValueError
        With the first such token, its id and the size of the vocabulary.
    """
    for ids in rows:
        if ids and max(ids) >= vocabulary:
            wrong = next(i for i in ids if i >= vocabulary)
            raise ValueError(
                f"every token must have an id below {vocabulary}, the size of the model's vocabulary; "
                f"{tokenizer.convert_ids_to_tokens(wrong)!r} has {wrong}; use the tokenizer that the model was trained "
                "with, or leave this token out of the text"
            )


def padding_id(tokenizer: Any, vocabulary: int) -> int:
    """An id to pad with, which is neither seen nor scored: the tokenizer's, its end, or 0, whichever the model has."""
    wanted = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in wanted if i is not None and 0 <= i < vocabulary)
