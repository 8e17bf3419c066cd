"""The loss on the response, with logits only where there is a label."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.alpaca import IGNORED
from zeroinit.families import owner


def response_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Sum of -log p(token | what is before it) over the tokens with a label, and how many they are.

    The sums and counts of several batches, or of several processes, add up to the exact mean of them all. The output
    embedding is given only hidden states that predict a label; what a model does to its logits after that
    (soft-capping, scaling) stays in force, because the model itself is run.

    Parameters
    ----------
    model : transformers model, or a wrapper of one
        PEFT's and DistributedDataParallel are such wrappers.
    batch : mapping
        A batch of `llm.data.batches.Collator`; `labels` (batch, length) are the tokens themselves, or -100 for no loss.

    Returns
    -------
    loss : Tensor, ()
        In float32 (float64 for a float64 model), with the graph.
    count : int

    Raises
    ------
    ValueError
        If the batch has no label, or is packed and the model cannot keep its examples apart.
    """
    if isinstance(model, nn.DataParallel):
        raise ValueError("nn.DataParallel would cut the batch but not its labels; start one process per GPU (torchrun)")
    labels = batch["labels"]
    predicts = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][predicts]
    if not len(targets):
        raise ValueError(f"a batch must have at least one label other than {IGNORED}; encode makes no row without one")
    if "position_ids" in batch:
        _check_packed(model, len(labels))
    head: Any = owner(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(partial(_keep, predicts))
    try:
        # A cache is of no use here, and with one transformers would not look for the borders of packed examples.
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits
    finally:
        hook.remove()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets.to(logits.device), reduction="sum"), len(targets)


def _keep(predicts: Tensor, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hidden states (batch, length, size) -> (labels, size); prompt tuning has its own tokens in front."""
    hidden = args[0][:, -predicts.shape[1] - 1 : -1]
    return (hidden[predicts.to(hidden.device)], *args[1:])


def _check_packed(model: nn.Module, rows: int) -> None:
    implementation = str(owner(model).config._attn_implementation)
    if "flash" in implementation and rows > 1:
        raise ValueError(
            f"with {implementation} a packed batch must be one row, else its examples see each other; got {rows} rows; "
            'set the batch size to 1 (and the length of packed rows higher), or attn_implementation to "sdpa"'
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError("PEFT's prompt learning ignores position_ids, so it cannot be trained on packed rows; unpack")
