"""The command line. What is heavy is imported inside the commands, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from bench.cli import bench
from model.analysis.evaluate_cli import evaluate
from model.cli import analyze, mid_timestep
from model.console import fail
from service.console import errors_told
from service.jobs_cli import jobs_app
from service.keys_cli import keys_app

app = typer.Typer(
    help="OMGSR Serve: small damaged photos in, sharp large ones out.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
models_app = typer.Typer(help="The variants that can be served.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")

_out = Console(highlight=False)


Format = Literal["png", "jpeg", "webp", "avif"]
ColorFix = Literal["adain", "wavelet", "none"]
Metadata = Literal["keep", "strip"]
Depth = Literal["8", "16"]
Models = Annotated[
    list[Path] | None,
    typer.Option("--models", "-m", help="A variant folder, or a folder that holds some; may be given several times."),
]


@app.command()
def serve(  # noqa: PLR0917 — each is an option of the command line
    models: Models = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="REST port [8000]; 0 picks a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port [50051]; 0 picks a free one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    demo: Annotated[bool, typer.Option("--demo", help="Upscale the bundled photo once the service is ready.")] = False,
) -> None:
    """Run the whole service on this machine: REST, gRPC, workers, and a queue unless REDIS_URL names one.

    The other settings are environment variables: OMGSR_STATE_DIR, OMGSR_DEVICE, OMGSR_MAX_BATCH, …
    """
    with errors_told():
        from service.supervisor import serve as serve_all

        settings = _settings(models=models, host=host, port=port, grpc_port=grpc_port)
        serve_all(settings, workers=workers, demo=demo)


@app.command()
def api() -> None:
    """Run the API process alone: REST and gRPC in front of the queue."""
    with errors_told():
        from service.api.app import serve as serve_api

        serve_api(_settings())


@app.command()
def worker(models: Models = None) -> None:
    """Run one worker: it takes jobs from the queue and makes the images."""
    with errors_told():
        from service.worker.process import run_worker

        run_worker(_settings(models=models))


@app.command()
def upscale(  # noqa: PLR0917 — each is an option of the command line
    source: Annotated[Path, typer.Argument(metavar="IN", help="A photo, or a folder of photos: its subfolders too.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The result's file, or a folder for the results.")],
    models: Models = None,
    model: Annotated[str, typer.Option(help="Variant (default: the first one found, or the server's).")] = "",
    scale: Annotated[float, typer.Option(min=1, max=8, help="Fractions too.")] = 4.0,
    strength: Annotated[float, typer.Option(min=0, max=1.2, help="Less stays closer to the photo.")] = 1.0,
    color_fix: Annotated[ColorFix | None, typer.Option(help="(default: the variant's own)")] = None,
    file_format: Annotated[Format | None, typer.Option("--format", help="(default: by OUT's name, else png)")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.")] = 95,
    depth: Annotated[Depth, typer.Option(help="Bits per sample; 16 needs png.")] = "8",
    metadata: Annotated[Metadata, typer.Option(help="The photo's EXIF.")] = "keep",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    server: Annotated[str, typer.Option(metavar="URL", help="Send the photos to this service.")] = "",
    api_key: Annotated[str, typer.Option(envvar="OMGSR_API_KEY", help="Of the service.", show_default=False)] = "",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Photos under way at once, with --server.")] = 4,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Higher goes first, with --server.")] = 0,
) -> None:
    """Upscale a photo, or every photo in a folder and its subfolders; with --server, by that service.

    Results that exist are kept, so a run that was stopped goes on where it stopped.
    """
    with errors_told():
        from service.job import UpscaleOptions

        options = UpscaleOptions(
            model=model,
            scale=scale,
            strength=strength,
            color_fix=color_fix,
            quality=quality,
            depth=depth,
            metadata=metadata,
            priority=priority,
        )
        if server:
            from service.remote import upscale_remotely

            if models:
                fail("--models is for work without a server.", "Choose among the server's models with --model.")
            failed = upscale_remotely(
                source, target, options, file_format, server=server, api_key=api_key, at_once=jobs, overwrite=overwrite
            )
        else:
            from service.upscale_command import upscale_files

            settings = _settings(models=models)
            failed = upscale_files(source, target, options, file_format, settings, overwrite=overwrite)
        if failed:
            fail(f"{failed} of the files could not be upscaled; they are named above.")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The recipe, a YAML file: model/configs has examples.", exists=True)],
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Write the variant of the last checkpoint, without training.")
    ] = False,
    preview: Annotated[
        Path | None, typer.Option(help="Only write a picture of the first training pairs, damaged beside original.")
    ] = None,
) -> None:
    """Train adapters by a recipe; its `run` folder becomes a variant. Resumes always; SIGTERM and Ctrl-C save."""
    with errors_told():
        if preview is not None:
            from model.train.preview import preview_recipe

            preview_recipe(config, preview)
            _out.print(f"wrote {preview}", soft_wrap=True)
            return
        from model.train.train import train as run_recipe

        if said := run_recipe(config, export_only=export_only):
            _out.print(said, soft_wrap=True)


app.command("mid-timestep")(mid_timestep)
app.command()(analyze)
app.command()(evaluate)
app.command()(bench)


@models_app.command("list")
def models_list(models: Models = None) -> None:
    """List the variants in the folders."""
    with errors_told():
        from model.variant import Variant, find_variants

        for folder in find_variants(_settings(models=models).models):
            variant = Variant.read(folder)
            _out.print(
                f"{variant.name}  {variant.family}  base {variant.base.id}  {variant.native_size} px  "
                f"t_m {variant.mid_timestep}  {variant.license}  {folder}",
                soft_wrap=True,
            )


@models_app.command("verify")
def models_verify(models: Models = None) -> None:
    """Check that every file of the variants is there, undamaged, and belongs to the others."""
    with errors_told():
        from model.variant import find_variants, verify_variant

        found = [(folder, verify_variant(folder)) for folder in find_variants(_settings(models=models).models)]
        for folder, faults in found:
            _out.print(f"{folder}: {'sound' if not faults else 'NOT sound'}", soft_wrap=True)
            for fault in faults:
                _out.print(f"  {fault}", soft_wrap=True, markup=False)
        if not found:
            fail("There is no variant folder here.")
        if any(faults for _, faults in found):
            fail("Not every variant is sound.")


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


def _settings(**given: Any) -> Any:
    from service.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    app()
