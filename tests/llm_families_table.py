"""The table of families in docs/llm.md, of those that the tests check: `python -m tests.llm_families_table`."""

from common.paths import ROOT
from tests.llm_helpers import FAMILIES, MORE
from zeroinit import families

PAGE, START, END = ROOT / "docs" / "llm.md", "<!-- families -->\n", "<!-- /families -->"


def table() -> str:
    """One row for each way to the keys, with the classes that the tests build."""
    tested = {name for name, _ in (FAMILIES | MORE).values()}
    refused: dict[str, list[str]] = {}
    for kind, reason in families.REFUSED.items():
        refused.setdefault(reason, []).append(kind.removesuffix("Attention").removesuffix("Text"))
    rows = ["| keys are | tested |", "|---|---|"]
    said = {"flat": "normalised before the view as heads", "heads": "normalised head by head"}
    for path, names in families._PATHS.items():
        here = [n for n in names.split() if {n, f"{n}Text"} & tested]
        how = said.get(path.order) or (
            "normalised by " + path.norm if path.norm != "k_norm" else "as in Llama or Qwen 3"
        )
        rows.append(f"| {how}{', queries gated' if path.gated_query else ''} | {', '.join(here)} |")
    rows += ["", "| refused | because |", "|---|---|"]
    rows += [f"| {', '.join(kinds)} | {reason} |" for reason, kinds in refused.items()]
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """`text` with the table of today between its marks."""
    before, _, rest = text.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
