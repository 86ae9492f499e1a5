"""What a measurement says: a claim, the rows that show it, and whether it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """One claim of the service and its figures."""

    title: str
    command: str
    columns: Sequence[str]
    rows: list[Sequence[str | float | int]] = field(default_factory=list)
    claims: list[tuple[str, bool]] = field(default_factory=list)

    def claim(self, text: str, *, holds: bool) -> None:
        """Note what was to be shown and whether it was."""
        self.claims.append((text, holds))

    @property
    def holds(self) -> bool:
        """Whether all claims do."""
        return all(holds for _, holds in self.claims)

    def markdown(self) -> str:
        """As a section of docs/service-figures.md."""
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        lines += ["| " + " | ".join(_cell(each) for each in row) + " |" for row in self.rows]
        lines += ["", *(f"- {'holds' if holds else '**does not hold**'}: {text}" for text, holds in self.claims)]
        return "\n".join(lines) + "\n"


def _cell(value: str | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
