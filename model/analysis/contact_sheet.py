"""A picture of the best and the worst results: small image enlarged, result, original, side by side."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from model.analysis.evaluate import Outcome, Scored, UnfitImages, read
from model.analysis.metrics import METRICS, Metric

RANKED_BY = ("lpips", "efflite0", "ssim", "psnr")
SIDE, LABEL, GAP = 384, 28, 8  # pixels
EACH = 3


def ranked(outcome: Outcome) -> tuple[Metric, list[Scored]]:
    """The first of LPIPS, EffLite0, SSIM and PSNR that ran on every image, and the images by it, best first.

    Raises UnfitImages where none of them did.
    """
    by_name = {metric.name: metric for metric in METRICS}
    for metric in (by_name[name] for name in RANKED_BY):
        numbers = [(one.scores[metric.name], one) for one in outcome.images]
        known = [(score, one) for score, one in numbers if isinstance(score, float)]
        if len(known) == len(numbers):
            known.sort(key=lambda each: each[0], reverse=metric.higher_is_better)
            return metric, [one for _, one in known]
    raise UnfitImages("no metric ran on every image, so that there is no best and worst: the images may be too small")


def save_contact_sheet(outcome: Outcome, path: Path) -> str:
    """Write the three best and the three worst images (all, where there are fewer) and say what it shows.

    Each is the middle of the picture, at most 384 pixels a side, pixel by pixel.
    """
    metric, order = ranked(outcome)
    places = list(enumerate(order, 1))
    few = len(places) <= 2 * EACH
    chosen = places if few else places[:EACH] + places[-EACH:]
    bands = [_band(one, f"{place} of {len(order)}: {one.pair.name}, {_told(one, metric)}") for place, one in chosen]
    sheet = Image.new("RGB", (max(band.width for band in bands), sum(band.height for band in bands)), "white")
    top = 0
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height
    sheet.save(path)
    what = "All images" if few else f"The {EACH} best and the {EACH} worst images"
    return (
        f"{what} of {outcome.method} by {metric.title}, best first: the small image enlarged (bicubic), the result, "
        f"the original; the middle {SIDE} pixels."
    )


def _band(one: Scored, label: str) -> Image.Image:
    enlarged = read(one.pair.low).resize(one.pair.size, Image.Resampling.BICUBIC)
    return _side_by_side([_middle(image) for image in (enlarged, read(one.file), read(one.pair.high))], label)


def _side_by_side(images: Sequence[Image.Image], label: str) -> Image.Image:
    width, height = images[0].size
    band = Image.new("RGB", (len(images) * (width + GAP) - GAP, LABEL + height + GAP), "white")
    ImageDraw.Draw(band).text((2, 4), label, fill="black", font=ImageFont.load_default(16))
    for place, image in enumerate(images):
        band.paste(image, (place * (width + GAP), LABEL))
    return band


def _middle(image: Image.Image) -> Image.Image:
    width, height = min(SIDE, image.width), min(SIDE, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _told(one: Scored, metric: Metric) -> str:
    shown = [metric, *(other for other in METRICS if other.name == "psnr" != metric.name)]
    scores = [(each, one.scores[each.name]) for each in shown]
    return ", ".join(f"{each.title} {score:.{each.decimals}f}" for each, score in scores if isinstance(score, float))
