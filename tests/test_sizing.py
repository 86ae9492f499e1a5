"""What docs/sizing.md says of S is what is counted now; F's lines are counted in the same way, and take longer."""

from pathlib import Path

from bench.budget import cards_table, models_table

PAGE = Path(__file__).parent.parent / "docs" / "sizing.md"


def rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if "| S-512 |" in line]


def test_the_page_says_what_is_counted() -> None:
    counted = rows(models_table(["S-512"]).markdown()) + rows(cards_table({"S-512": ("S-512",)}).markdown())
    assert len(counted) == 1 + 3 * 2
    assert rows(PAGE.read_text()) == counted, "run `python -m bench.budget --out docs/sizing.md`"
