"""`omgsr models`: the variants that can be served, and how they come here. What is heavy is imported inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from model.console import fail, stderr
from model.released import PAPERS, RELEASES
from service.console import errors_told
from service.options import Models, settings

if TYPE_CHECKING:
    from model.bases import Shelf
    from model.importing import Wish
    from model.licence import Ask
    from model.released import Licence

models_app = typer.Typer(help="The variants that can be served.", no_args_is_help=True)

_out = Console(highlight=False)

Into = Annotated[
    Path | None, typer.Option(help="Folder for variants and bases (default: the first of OMGSR_MODELS, else models)")
]
PromptFile = Annotated[
    Path | None,
    typer.Option(help="Ready prompt.safetensors, instead of embedding the prompt.", exists=True, dir_okay=False),
]
BaseId = Annotated[str, typer.Option(help="What the base in a folder is called, where it does not say so itself.")]
Precision = Annotated[
    Literal["half", "full"], typer.Option(help="half: the base's 16-bit files, where it has them; full: 32-bit ones.")
]
AcceptLicense = Annotated[bool, typer.Option("--accept-license", help="Accept the base's licence without a question.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Use only what is on this machine.")]
Endpoint = Annotated[str, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub, or of its mirror.")]


@models_app.command("list")
def models_list(models: Models = None) -> None:
    """List the variants in the folders."""
    with errors_told():
        from model.variant import Variant, find_variants

        for folder in find_variants(settings(models=models).models):
            variant = Variant.read(folder)
            _out.print(
                f"{variant.name}  {variant.family}  base {variant.base.id}  {variant.native_size} px  "
                f"t_m {variant.mid_timestep}  {variant.license}  {folder}",
                soft_wrap=True,
            )


@models_app.command("pull")
def models_pull(  # noqa: PLR0917 — each is an option of the command line
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(RELEASES)}.")],
    adapters: Annotated[
        str,
        typer.Option(
            envvar="OMGSR_ADAPTERS",
            help="Where the adapters are: FOLDER, URL of a zip or tar, or hub:OWNER/NAME@REVISION:FOLDER.",
        ),
    ] = "",
    base: Annotated[
        str,
        typer.Option(envvar="OMGSR_BASE", help="FOLDER, or OWNER/NAME@REVISION of the hub (default: the release's)"),
    ] = "",
    base_id: BaseId = "",
    into: Into = None,
    prompt_file: PromptFile = None,
    precision: Precision = "half",
    accept_license: AcceptLicense = False,
    offline: Offline = False,
    endpoint: Endpoint = "https://huggingface.co",
) -> None:
    """Fetch a release: its base from the hub, its adapters from where you say, its prompt embedded once.

    A run that was stopped goes on where it stopped. A gated base needs a token in HF_TOKEN.
    """
    with errors_told():
        from model.importing import Wish
        from model.released import release_named

        wish = Wish(
            release_named(name),
            base=base,
            base_id=base_id,
            adapters=adapters,
            prompt_file=prompt_file,
            offline=offline,
        )
        _make(wish, _shelf(into, endpoint, accept_license, precision))


@models_app.command("import")
def models_import(  # noqa: PLR0917 — each is an option of the command line
    folder: Annotated[Path, typer.Argument(help="It holds the authors' two adapter folders.", file_okay=False)],
    family: Annotated[Literal["sd", "flux"] | None, typer.Option(help="What the base is.")] = None,
    base: Annotated[str, typer.Option(help="FOLDER, or OWNER/NAME@REVISION of the hub.")] = "",
    name: Annotated[str, typer.Option(help="Of the variant (default: the folder's name)")] = "",
    like: Annotated[
        str,
        typer.Option(help=f"Release that gives what is not said here (default: {PAPERS['sd']} or {PAPERS['flux']})"),
    ] = "",
    mid_timestep: Annotated[int | None, typer.Option(min=0, help="That the adapters were trained at.")] = None,
    size: Annotated[int | None, typer.Option(min=64, help="Pixels: that they were trained at.")] = None,
    prompt: Annotated[str | None, typer.Option(help="That they were trained with; it may be empty.")] = None,
    base_id: BaseId = "",
    into: Into = None,
    prompt_file: PromptFile = None,
    precision: Precision = "half",
    accept_license: AcceptLicense = False,
    offline: Offline = False,
    endpoint: Endpoint = "https://huggingface.co",
) -> None:
    """Make a variant of adapters in the authors' layout: their bare folder says nothing of base, timestep and prompt.

    All of it is written to variant.json and told here; with another base or timestep adapters silently make bad images.
    """
    with errors_told():
        from model.importing import Wish, release_for

        release = release_for(
            folder, family, like, name=name, base=base, mid_timestep=mid_timestep, size=size, prompt=prompt
        )
        wish = Wish(
            release,
            base=base,
            base_id=base_id,
            adapters=str(folder),
            prompt_file=prompt_file,
            offline=offline,
        )
        shelf = _shelf(into, endpoint, accept_license, precision)
        if shelf.variant(wish.name).exists():
            fail(f"{shelf.variant(wish.name)} exists already.", "Choose another --name, or delete it.")
        _make(wish, shelf)


@models_app.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Of variants (default: all)")] = None, models: Models = None
) -> None:
    """Check that every file of the variants is there, undamaged, and belongs to the others."""
    with errors_told():
        from model.variant import find_variants, verify_variant

        places = settings(models=models).models
        folders = [folder for folder in find_variants(places) if not names or folder.name in names]
        unsound = False
        for folder in folders:
            with stderr.status(f"reading {folder} and its base"):
                faults = verify_variant(folder)
            unsound |= bool(faults)
            _out.print(f"{folder}: {'sound' if not faults else 'NOT sound'}", soft_wrap=True)
            for fault in faults:
                _out.print(f"  {fault}", soft_wrap=True, markup=False)
        for left in (place / ".partial" for place in places if any((place / ".partial").glob("*/*"))):
            _out.print(f"{left}: unfinished; repeat the pull, or delete it", soft_wrap=True)
        if absent := set(names or ()) - {folder.name for folder in folders}:
            fail(f"There is no variant {', '.join(sorted(absent))} here.")
        if not folders:
            fail("There is no variant folder here.")
        if unsound:
            fail("Not every variant is sound.", "A pull of the same name mends it.")


@models_app.command("embed-prompt")
def models_embed_prompt(
    base: Annotated[Path, typer.Argument(help="The base's diffusers folder, with its text encoders.")],
    text: Annotated[str, typer.Argument(help="The prompt; it may be empty.")],
    out: Annotated[Path, typer.Argument(help="The prompt.safetensors to write.")],
    text_length: Annotated[
        int | None, typer.Option(min=1, max=512, help="F: tokens of the prompt; short ones are faster [512]")
    ] = None,
) -> None:
    """Compute a variant's prompt embeddings once, by the base's own text encoders."""
    with errors_told():
        from model.text_encoder import embed_prompt

        embed_prompt(base, text, out, text_length)
        _out.print(f"wrote {out}", soft_wrap=True)


@models_app.command("quantize")
def models_quantize(
    variant: Annotated[Path, typer.Argument(help="The variant's folder.", exists=True, file_okay=False)],
    kind: Annotated[Literal["int8", "fp8"], typer.Option(help="int8: weights, for small cards; fp8: Ada, Hopper.")],
    photos: Annotated[str, typer.Option(help="Real photos to check on: a folder, or a pattern in quotes.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Let a variant be served in fewer bits, if photos show that it makes the same images: 40 dB PSNR at least."""
    with errors_told():
        from model.quantize import quantize_variant

        report = quantize_variant(variant, kind, photos, device)
        saved = (report.bytes_before - report.bytes_after) / 1e6
        _out.print(
            f"{variant} is served in {kind} from now on: {report.psnr_db:.1f} dB PSNR on the worst of {report.photos} "
            f"photos, {saved:.1f} MB less",
            soft_wrap=True,
        )


def _shelf(into: Path | None, endpoint: str, accepted: bool, precision: str) -> "Shelf":
    """By default the folder that is served, so that what comes into it is served too; never the package's own."""
    from model.bases import Shelf
    from model.hub import Hub
    from service.settings import BUNDLED_MODELS

    served: Path = settings().models[0]
    root = into or (served if served != BUNDLED_MODELS else Path("models"))
    return Shelf(root, Hub(endpoint.rstrip("/")), _asking(accepted), half=precision == "half")


def _make(wish: "Wish", shelf: "Shelf") -> None:
    from model.importing import make_variant
    from model.variant import Variant

    variant = Variant.read(make_variant(wish, shelf))
    _out.print(
        f"{variant.name} is ready: base {variant.base.id}, t_m {variant.mid_timestep}, {variant.native_size} px, "
        f"prompt {variant.prompt.text!r}, {variant.license}",
        soft_wrap=True,
        markup=False,
    )
    _out.print(f"omgsr serve --models {shelf.root}", soft_wrap=True, markup=False)


def _asking(accepted: bool) -> "Ask":
    def ask(base: str, licence: "Licence") -> bool:
        _out.print(f"{base}: {licence.name}\n  {licence.terms}\n  {licence.address}", soft_wrap=True, markup=False)
        if accepted:
            return True
        try:
            return typer.confirm("Do you accept this licence?")
        except typer.Abort:  # nobody is there to answer
            return False

    return ask
