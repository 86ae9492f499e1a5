"""What a measurement says: a claim, the rows that show it, and whether it holds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Printed

Cell = str | float | int
FILE_WIDTH = 140
"""Characters, where the output has no width of its own."""


@dataclass
class Table:
    """One claim and its figures."""

    title: str
    command: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    claims: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def claim(self, text: str, *, holds: bool) -> None:
        """Note what was to be shown and whether it was."""
        self.claims.append((text, holds))

    @property
    def holds(self) -> bool:
        """Whether all claims do."""
        return all(holds for _, holds in self.claims)

    def markdown(self, heading: str = "##") -> str:
        """As a section of a page in docs/."""
        lines = [f"{heading} {self.title}", "", f"`{self.command}`", ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        lines += ["| " + " | ".join(_cell(each) for each in row) + " |" for row in self.rows]
        lines += ["", *(f"- {'holds' if holds else '**does not hold**'}: {text}" for text, holds in self.claims)]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def show(self, console: Console) -> None:
        """Print it on a terminal."""
        if not console.is_terminal:
            console.width = FILE_WIDTH
        printed = Printed(title=self.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(self.columns):
            printed.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            printed.add_row(*(_cell(each) for each in row))
        console.print(printed)
        said = [f"{'holds' if holds else 'does not hold'}: {text}" for text, holds in self.claims]
        for text in (*said, *self.notes):
            console.print(text, soft_wrap=True, markup=False)


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3g}"
    return str(value)
