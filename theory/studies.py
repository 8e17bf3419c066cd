"""The studies: frozen configurations, one for each claim of the theorems, fixed before anything was run.

Every configuration names the truth, noise, sizes, first n of the slope, box and seed. Its quick twin is the first sizes
and replicates of the same study, so a quick run computes rows that the committed full run has as well.
"""

from dataclasses import replace

from theory.study import BOX, Study, decades

__all__ = ["STUDIES", "Study"]


def _over(**kwargs) -> Study:
    """One prompt more than the truth has."""
    defaults = {
        "theory_of": "over",
        "sizes": decades(2, 5),
        "first_n": 100,
        "extra": 1,
        "replicates": 200,
        "large_replicates": 400,
        "quick_replicates": 20,
    }
    return Study(**defaults | kwargs)


def _many(**kwargs) -> Study:
    """Ten truths, and noise so small that limits are reached: only nu / sqrt(n) matters."""
    defaults = {
        "truths": 10,
        "noise": 3e-4,
        "sizes": decades(2.5, 5),
        "first_n": 316,
        "replicates": 40,
        "large_replicates": 40,
        "quick_replicates": 10,
    }
    return Study(**defaults | kwargs)


STUDIES: dict[str, Study] = {
    s.name: s
    for s in (
        Study(
            "exact-linear",
            "Theorem 4.2's rates with as many fitted prompts as true ones",
            d=4,
            d_out=4,
            quick_replicates=80,
        ),
        Study(
            "exact-tanh",
            "Theorem 4.4's rates, sigma = tanh, output longer than input",
            quick_replicates=80,
            theory_of="exact in q",
            activation="tanh",
            d=4,
            d_out=8,
            spread=(-1.3, 1.3),
        ),
        Study(
            "exact-gelu",
            "Theorem 4.4's rates, sigma = GELU where it is one-to-one",
            quick_replicates=80,
            theory_of="exact in q",
            activation="gelu",
            spread=(0.1, 2.3),
            apart=1.0,
            sizes=decades(2, 5),
            first_n=100,
            expect=("injective sigma",),
        ),
        Study(
            "exact-mlp",
            "sigma = a fixed two-layer network, outside Theorem 4.4 only by not being elementwise",
            quick_replicates=80,
            theory_of="exact in q",
            activation="mlp",
            d=8,
            d_out=8,
            L=2,
            spread=(-1.3, 1.3),
            sizes=decades(2, 5),
            first_n=100,
        ),
        Study(
            "exact-linear-global",
            "exact-linear from starts that know nothing of the truth",
            quick_replicates=20,
            d=4,
            d_out=4,
            start="global",
            sizes=decades(2, 5),
            first_n=100,
        ),
        _over(
            name="over-linear",
            about="Theorem 4.2: one prompt more than the truth has",
            sizes=decades(3, 6),
            first_n=1000,
            large_n=300_000,
            large_replicates=100,
        ),
        _over(
            name="over-tanh",
            about="Theorem 4.4: one prompt more, sigma = tanh",
            theory_of="over in q",
            activation="tanh",
            spread=(-1.3, 1.3),
            sizes=decades(3, 6),
            first_n=1000,
            large_n=300_000,
            large_replicates=100,
        ),
        _over(
            name="over-joint",
            about="vanilla attention: one softmax, shared prompts",
            theory_of="over joint",
            gate="joint",
        ),
        _over(
            name="over-joint-unshared",
            about="vanilla attention: one softmax, separate key and value prompts",
            quick_replicates=10,
            theory_of="over unshared",
            gate="joint_unshared",
            expect=("value trade",),
        ),
        _over(
            name="over-zero-init-unshared",
            about="control: a softmax of their own, separate key and value prompts",
            quick_replicates=10,
            theory_of="function only",
            gate="zero_init_unshared",
            expect=("value trade",),
        ),
        _over(
            name="over-linear-two",
            about="Theorem 4.2: two prompts more than the truth has",
            extra=2,
            quick_replicates=10,
        ),
        _many(
            name="quarter-rate",
            about="n^-1/4: one prompt more, in a box that keeps weights off 0",
            quick_replicates=40,
            replicates=100,
            large_replicates=100,
            theory_of="over in a tight box",
            extra=1,
            box=replace(BOX, bias=1.0),
        ),
        _many(
            name="quarter-rate-3",
            about="quarter-rate in the box of over-linear, where weights may fall to 1 %",
            theory_of="over",
            extra=1,
        ),
        _many(
            name="quarter-rate-6",
            about="quarter-rate in a wide box: the rate of the spare prompt is the box's",
            theory_of="over",
            extra=1,
            box=replace(BOX, bias=6.0),
        ),
        _many(
            name="moving-quarter",
            about="a true prompt in halves c n^-1/4 from their middle, as many prompts fitted",
            theory_of="moving quarter",
            moving="quarter",
            box=replace(BOX, bias=1.5),
        ),
        _many(
            name="moving-sixth",
            about="a true prompt in halves c n^-1/6 from their middle: the minimax rate",
            quick_replicates=100,
            replicates=100,
            large_replicates=100,
            theory_of="moving sixth",
            moving="sixth",
            sizes=decades(3, 5.5),
            first_n=1000,
        ),
        _many(
            name="moving-sixth-joint",
            about="moving-sixth in one softmax: vanilla attention with shared prompts",
            theory_of="moving sixth joint",
            gate="joint",
            moving="sixth",
            sizes=decades(3, 5.5),
            first_n=1000,
        ),
        _many(
            name="moving-unshared",
            about="vanilla attention, separate keys and values: keys n^-1/2 apart, values 1 apart",
            quick_replicates=20,
            replicates=100,
            large_replicates=100,
            theory_of="moving values",
            gate="joint_unshared",
            moving="values",
        ),
        _many(
            name="moving-unshared-zero",
            about="moving-unshared with a softmax of their own; invariants only",
            theory_of="moving values",
            gate="zero_init_unshared",
            moving="values",
        ),
        _many(
            name="vanishing-gate",
            about="a gate that closes, alpha_n = 0.8 (n / 316)^-1/4: the start of training",
            quick_replicates=60,
            replicates=100,
            large_replicates=100,
            theory_of="vanishing gate",
            moving="gate",
            sizes=decades(3.5, 5.5),
            first_n=3162,
        ),
        _many(
            name="real-head",
            about="Theorem 4.2 on a head of a real model, inputs with the moments of its hidden states",
            head="stories260K",
            d=40,
            d_out=8,
            noise=0.01,
        ),
        Study(
            "under",
            "one prompt fewer than the truth has: errors to the best fit of that size",
            theory_of="projection",
            fewer=1,
            sizes=decades(2.5, 5),
            replicates=200,
            large_replicates=200,
        ),
        Study(
            "exact-relu",
            "sigma = ReLU, the published activation: neither one-to-one nor smooth, outside Theorem 4.4",
            theory_of="exact in q only",
            activation="relu",
            spread=(-1.0, 2.0),
            sizes=decades(2.5, 5),
            replicates=200,
            large_replicates=200,
            expect=("injective sigma", "saturated sigma"),
        ),
    )
}
