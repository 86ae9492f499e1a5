"""The documents are true to the tree: links and anchors lead somewhere, settings and commands that they name exist."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.core import TyperGroup
from typer.main import get_command

from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *ROOT.glob("model/weights/*/*.md"),
    ]
)
DEPLOYED = [path for path in (ROOT / "deploy").rglob("*") if path.suffix in (".yml", ".yaml", ".tpl", ".sh", ".txt")]
NAMING = [*PAGES, ROOT / "Dockerfile", ROOT / "docker-compose.yml", ROOT / ".env", ROOT / ".env.example", *DEPLOYED]
OTHERS = {
    "OMGSR_SOAK": "asks for the long form of tests (tests/soak.py)",
    "OMGSR_VERSION": "the images' tag (docker-compose.yml, Makefile)",
    "OMGSR_REVISION": "the commit that the images tell (docker-compose.yml, Makefile)",
}
"""Variables that are no setting of the service: who reads them."""
COMMAND = re.compile(
    r"(?:(?:^|[;&|(] ?)omgsr|compose (?:run|exec) (?:\S+ )*?(?:api|worker)(?: omgsr)?) "
    r"([a-z][a-z-]*)(?: ([a-z][a-z-]*))?",
    re.MULTILINE,
)
"""A command of `omgsr` in a shell or in a container, and the word behind it."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    lost = [link for link in _links(page) if not _leads(page, link)]
    assert not lost


@pytest.mark.parametrize("page", NAMING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"\bOMGSR_[A-Z0-9]+(?:_[A-Z0-9]+)*\b", page.read_text("utf-8")))
    unknown = named - _settings() - OTHERS.keys()
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_named_exists(page: Path) -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for code in _code(page):
        for name, word in COMMAND.findall(code):
            assert name in root.commands, code
            command = root.commands[name]
            assert not isinstance(command, TyperGroup) or not word or word in command.commands, code
        for target in re.findall(r"^make ([a-z][a-z-]*)", code, re.MULTILINE):
            assert target in targets, code


def _settings() -> set[str]:
    """The variables that the service and its commands read."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "service").glob("*.py"))
    commands = re.findall(r'envvar="(OMGSR_\w+)"', code)
    return {"OMGSR_REDIS_URL", *commands, *(f"OMGSR_{name.upper()}" for name in Settings.model_fields)}


def _tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        yield token
        yield from token.children or ()


def _links(page: Path) -> Iterator[str]:
    for token in _tokens(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if target and not re.match(r"[a-z]+:", str(target)):
            yield str(target)


def _leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """The headings' names, as GitHub makes them, and those that are set by hand."""
    tokens = list(_tokens(page))
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings]
    by_hand = re.findall(r'<a id="([^"]+)">', page.read_text("utf-8"))
    return {*by_hand, *(heading.strip().replace(" ", "-") for heading in plain)}


def _code(page: Path) -> list[str]:
    return [token.content for token in _tokens(page) if token.type in ("code_inline", "fence", "code_block")]
