"""`omgsr upscale` without a server: one photo after the other by a model in this process."""

from pathlib import Path

from model.pipeline import OMGSRPipeline
from service.errands import Errand, in_format, plan_errands
from service.errors import ServiceError, UnknownModel
from service.job import OutputFormat, UpscaleOptions
from service.local import upscale_file
from service.settings import Settings
from service.upscale_report import Report
from service.worker.variants import dtype_on, pick_device, variant_folders


def upscale_files(
    source: Path,
    target: Path,
    options: UpscaleOptions,
    wanted: OutputFormat | None,
    settings: Settings,
    *,
    overwrite: bool,
) -> int:
    """Upscale a file or a folder and return how many files failed. Results that exist are left as they are."""
    plan = plan_errands(source, target, wanted, overwrite=overwrite)
    options = in_format(options, plan.format)
    with Report(plan) as report:
        pipe = _load(options.model, settings)
        for errand in plan.errands:

            def told(done: int, total: int, errand: Errand = errand) -> None:
                report.working(errand, done / total)

            report.say(errand.source.name)
            try:
                upscale_file(pipe, errand, options, settings, told)
            except (ServiceError, OSError, RuntimeError, MemoryError) as error:  # RuntimeError: torch's short memory
                report.failure(errand, error)
            else:
                report.made(errand)
    return report.failed


def _load(name: str, settings: Settings) -> OMGSRPipeline:
    folders = variant_folders(settings.models)
    if name and name not in folders:
        raise UnknownModel(f"There is no model {name!r}.", f"Choose one of: {', '.join(folders)}.")
    device = pick_device(settings.device)
    folder = folders[name or next(iter(folders))]
    return OMGSRPipeline.from_variant(folder, device=device, dtype=dtype_on(device), fold=True)
