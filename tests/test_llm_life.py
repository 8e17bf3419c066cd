"""The life of an adapter: loaded for evaluation only, beside one that trains."""

import warnings

import pytest
import torch

import zeroinit
from tests.llm_helpers import adapted, adapter_of, tiny, tokens


def trained(model) -> bool:
    return any(p.requires_grad for p in model.parameters())


def test_an_adapter_loaded_frozen_stays_so(tmp_path):
    zeroinit.save(adapted(tiny()), tmp_path)
    model = zeroinit.load(tiny(), tmp_path, trainable=False)
    assert not trained(model)
    assert not trained(zeroinit.activate(model, "default"))
    assert torch.equal(model(tokens()).logits, adapted(tiny())(tokens()).logits)
    zeroinit.load(model, tmp_path, "second")
    assert [trained(adapter_of(model, name)) for name in ("default", "second")] == [False, True]
    zeroinit.delete(model, "default")
    zeroinit.load(model, tmp_path)  # the name alone is forgotten with the adapter
    assert trained(adapter_of(model))


@pytest.mark.parametrize("trainable", [True, False])
def test_stopping_a_training_is_said(tmp_path, trainable):
    zeroinit.save(adapted(tiny()), tmp_path)
    model, ids = adapted(tiny()), tokens(1, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zeroinit.load(model, tmp_path, "early", trainable=trainable)  # nothing has trained so far
        zeroinit.activate(model, "default")
    model(ids, labels=ids).loss.backward()
    with pytest.warns(UserWarning, match="the adapter 'default' was being trained and is frozen now"):
        zeroinit.load(model, tmp_path, "second", trainable=trainable)
