"""The command line. What is heavy is imported inside the commands, so that `--help` is quick."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from bench.cli import bench
from model.analysis.evaluate_cli import evaluate
from model.cli import analyze, mid_timestep
from model.console import fail
from service.console import errors_told
from service.jobs_cli import jobs_app
from service.keys_cli import keys_app
from service.models_cli import models_app
from service.options import Models, settings

app = typer.Typer(
    help="OMGSR Serve: small damaged photos in, sharp large ones out.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")

_out = Console(highlight=False)


Format = Literal["png", "jpeg", "webp", "avif"]
ColorFix = Literal["adain", "wavelet", "none"]
Metadata = Literal["keep", "strip"]
Depth = Literal["8", "16"]


def _tell_version(asked: bool) -> None:
    if asked:
        from service.version import release

        _out.print(release())
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which release this is.")
    ] = False,
) -> None: ...


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

        chosen = settings(models=models, host=host, port=port, grpc_port=grpc_port)
        serve_all(chosen, workers=workers, demo=demo)


@app.command()
def api() -> None:
    """Run the API process alone: REST and gRPC in front of the queue."""
    with errors_told():
        from service.api.app import serve as serve_api

        serve_api(settings())


@app.command()
def worker(models: Models = None) -> None:
    """Run one worker: it takes jobs from the queue and makes the images."""
    with errors_told():
        from service.worker.process import run_worker

        run_worker(settings(models=models))


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

            chosen = settings(models=models)
            failed = upscale_files(source, target, options, file_format, chosen, overwrite=overwrite)
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


if __name__ == "__main__":
    app()
