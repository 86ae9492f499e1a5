"""What docs/performance.md says that images cost is what is counted now, and what was promised of it holds."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from bench.cli import BEGIN, END
from bench.count import Cost, counted
from bench.counted import tables
from service.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def test_the_page_says_what_is_counted(tmp_path: Path) -> None:
    written, page = PAGE.read_text(), tmp_path / "performance.md"
    before, begin, rest = written.partition(BEGIN)
    page.write_text(before + begin + END + rest.partition(END)[2])
    ran = CliRunner().invoke(app, ["bench", "--count", "--out", str(page)])
    assert ran.exit_code == 0, ran.output
    assert "S@512" in ran.stdout
    assert page.read_text() == written, "run `omgsr bench --count --out docs/performance.md`"


def test_what_was_promised_holds() -> None:
    claims = [claim for table in tables() for claim in table.claims]
    assert len(claims) == 4
    assert [text for text, holds in claims if not holds] == []


def test_a_convolution_is_counted_exactly() -> None:
    with torch.device("meta"):
        conv, x = nn.Conv2d(4, 8, 3, padding=1, dtype=torch.bfloat16), torch.zeros(1, 4, 16, 16, dtype=torch.bfloat16)
    moved = 2 * (4 * 16 * 16 + 8 * 4 * 9 + 8 + 8 * 16 * 16)
    assert counted(lambda: conv(x)) == Cost(2 * 9 * 4 * 8 * 16 * 16, operators=1, launches=1, moved=moved)


def test_attention_is_one_launch_without_a_matrix_of_scores() -> None:
    q, k, v = torch.zeros(3, 2, 5, 64, 32, device="meta").unbind()
    cost = counted(lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert cost.flops == 2 * 2 * 2 * 5 * 64 * 64 * 32
    assert cost.launches == 1
    assert cost.moved == 4 * q.nbytes


def test_views_are_dispatched_and_not_launched() -> None:
    x = torch.zeros(6, 6, device="meta")
    assert counted(lambda: x.t().unflatten(0, (2, 3))[0]).launches == 0
    in_place = counted(lambda: x.add_(1))
    assert (in_place.launches, in_place.moved) == (1, 2 * x.nbytes)
    expanded = counted(lambda: torch.zeros(1, 6, device="meta").expand(6, 6) + x)
    assert expanded.moved == 24 + (24 + 2 * x.nbytes)
