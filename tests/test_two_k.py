"""Figure 1's second stage: a small photo becomes 2048 × 2048 through the service, scale 8, on the bundled mini."""

from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from model.analysis.quality import psnr
from model.pipeline import to_pixels
from model.plan import stages, tile_count
from model.variant import Variant
from tests.running import running_service
from tests.soak import times

ROOT = Path(__file__).parent.parent
MINI = ROOT / "model" / "weights" / "omgsr-s-mini"
PHOTO = ROOT / "tests" / "data" / "photos" / "raccoon.jpg"
SCALE = 8
SIDE = times(256, 96)  # 768 × 768 every day: two stages as well, the second of four tiles


def test_a_small_photo_goes_through_two_stages(state: Path) -> None:
    photo = Image.open(PHOTO).resize((SIDE, SIDE), Image.Resampling.BOX)
    file = BytesIO()
    photo.save(file, "PNG")
    body = {"params": {"scale": SCALE}, "files": {"image": ("a.png", file.getvalue())}}
    geometry = Variant.read(MINI).geometry
    assert len(stages(photo.size, SCALE, geometry)) == 2

    with running_service(state, MINI) as service, httpx.Client(base_url=service.url, timeout=900) as client:
        answer = client.post("/v1/upscale", **body, headers={"Idempotency-Key": "a"})
        assert answer.status_code == 200, answer.text
        # The same key: the job that has made the image.
        job = client.post("/v1/upscale", **body, headers={"Idempotency-Key": "a", "Prefer": "respond-async"}).json()

    assert job["tiles_done"] == job["tiles_total"] == tile_count(photo.size, SCALE, geometry)
    result = Image.open(BytesIO(answer.content)).convert("RGB")
    assert result.size == (SCALE * SIDE, SCALE * SIDE)
    assert psnr(to_pixels(result.resize(photo.size, Image.Resampling.BOX)), to_pixels(photo), peak=1) > 25
