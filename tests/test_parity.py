"""The authors' numbers, reproduced: everything in tests/data/golden (its README names each tensor)."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from model.color import adain
from model.family import family_named
from model.flux import image_ids
from model.pipeline import to_pixels
from model.plan import Geometry, output_size, stages, tiles
from model.schedule import DDPMSchedule, FlowSchedule
from model.tiles import gaussian_weights
from model.upscale import drive
from tests.golden import GOLDEN, golden_pipeline

UNTILED = ["s/untiled_t195", "s/untiled_nonsquare_t195", "f/untiled_t295"]
TILED = ["s/tiled_t195", "f/tiled_t295"]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs()
    assert error.max() <= 5e-5
    assert error.mean() <= 5e-6


@pytest.mark.parametrize("case", UNTILED + TILED)
def test_every_step_agrees(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    pipe = golden_pipeline(case)
    assert_close(pipe.encode(golden["lq"]), golden["z_L"])
    assert_close(pipe.predict_raw(golden["z_L"]), golden["model_pred"])
    assert_close(pipe.predict(golden["z_L"]), golden["z_P"])
    assert_close(golden["z_P"] / pipe.vae.scaling + pipe.vae.shift, golden["decode_in"])
    assert_close(pipe.decode(golden["z_P"]), golden["image"].clamp(-1, 1))


@pytest.mark.parametrize("case", UNTILED + TILED)
def test_the_whole_way_agrees(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    pipe = golden_pipeline(case)
    image = pipe.decode(pipe.predict(pipe.encode(golden["lq"])))
    assert_close(image, golden["image"].clamp(-1, 1))
    ours = ((image / 2 + 0.5) * 255).floor().permute(0, 2, 3, 1)
    assert (ours - golden["image_u8"]).abs().max() <= 1


@pytest.mark.parametrize("case", UNTILED)
def test_the_base_alone_agrees(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    pipe = golden_pipeline(case, adapters=False)
    image = pipe.decode(pipe.predict(pipe.encode(golden["lq"])))
    assert_close(image, golden["image_without_adapters"].clamp(-1, 1))


@pytest.mark.parametrize("case", TILED)
def test_tiles_agree(case: str) -> None:
    golden = load_file(GOLDEN / f"{case}.safetensors")
    height, width = golden["z_L"].shape[-2:]
    boxes = tiles(height, width, tile=16, overlap=8)
    assert [[box.y, box.x] for box in boxes] == golden["tile_offsets_yx"][0].tolist()
    assert_close(gaussian_weights(16)[None, None], golden["tile_weights"])
    weight_sum = torch.zeros(height, width)
    for box in boxes:
        weight_sum[box.y : box.y + 16, box.x : box.x + 16] += gaussian_weights(16)
    assert_close(weight_sum[None, None], golden["weight_sum"])
    pipe = golden_pipeline(case)
    for box, theirs in zip(boxes, golden["tile_pred"][0], strict=True):
        tile = golden["z_L"][:, :, box.y : box.y + 16, box.x : box.x + 16]
        assert_close(pipe.predict_raw(tile)[0], theirs)


def test_flux_image_ids_agree() -> None:
    for case in ("f/untiled_t295", "f/tiled_t295"):
        assert torch.equal(image_ids(8, 8), load_file(GOLDEN / f"{case}.safetensors")["latent_image_ids"])


@pytest.mark.parametrize("name", ["a32x32", "b48x36"])
def test_photo_to_photo_agrees(name: str) -> None:
    """Ours rounds to 8 bits where the reference truncates: half a level on average, and truncated ours agrees.

    A few pixels are two levels off: these random networks amplify the last bit, and AdaIN doubles that (σ ratio).
    """
    folder = GOLDEN / "s" / "e2e_adain_t195"
    pipe = golden_pipeline("s/tiled_t195")
    photo = to_pixels(Image.open(folder / "in" / f"{name}.png"))
    theirs = to_pixels(Image.open(folder / "out" / f"{name}.png")) * 255
    (image,) = drive([pipe.upscale(photo, scale=4, color_fix="adain")], pipe.execute, max_batch=4)
    truncated = ((image * 255).floor() - theirs).abs().round()
    assert truncated.max() <= 2
    assert (truncated > 1).float().mean() <= 3e-3
    assert abs((image * 255).round() - theirs).mean() <= 0.6


@pytest.mark.parametrize("pair", [0, 1])
def test_adain_agrees_to_one_level(pair: int) -> None:
    golden = load_file(GOLDEN / "util" / "adain.safetensors")
    source, target, result = (
        golden[f"{name}_{pair}"].permute(2, 0, 1) / 255 for name in ("source", "target", "result")
    )
    assert ((adain(target, source).clamp(0, 1) - result) * 255).abs().max() <= 1


def test_schedules_agree() -> None:
    golden = json.loads((GOLDEN / "util" / "schedule.json").read_text())
    config = json.loads((GOLDEN / "s" / "base" / "scheduler" / "scheduler_config.json").read_text())
    ddpm = DDPMSchedule.from_config(config)
    for t, numbers in golden["ddpm"].items():
        alpha_bar = ddpm.alpha_bar[int(t)]
        assert float(alpha_bar) == pytest.approx(numbers["alpha_bar"], abs=1e-6)
        assert float(alpha_bar.sqrt()) == pytest.approx(numbers["sqrt_alpha_bar"], abs=1e-6)
        assert float((1 - alpha_bar).sqrt()) == pytest.approx(numbers["sqrt_one_minus_alpha_bar"], abs=1e-6)
    flux = FlowSchedule.flux()
    assert len(flux.sigmas) == golden["flux_list_length"]
    for t, numbers in golden["flux"].items():
        assert float(flux.sigmas[int(t)]) == pytest.approx(numbers["sigma"], abs=1e-6)


@pytest.mark.parametrize("case", json.loads((GOLDEN / "util" / "preprocess_sizes.json").read_text()))
def test_sizes_agree_but_for_their_faults(case: dict) -> None:
    """The reference truncates the processed size down to a multiple of 8 (and once to 504 instead of 512)."""
    geometry = Geometry(case["process_size"], case["latent_tile"], case["latent_overlap"], family_named("sd").multiple)
    size, scale = tuple(case["in_wh"]), case["upscale"]
    (stage,) = stages(size, scale, geometry)
    assert stage.output == output_size(size, scale)
    for ours, theirs in zip(stage.processed, case["processed_wh"], strict=True):
        assert theirs <= ours < theirs + 16
    boxes = tiles(stage.padded[1] // 8, stage.padded[0] // 8, geometry.tile, geometry.overlap)
    assert bool(boxes) == case["tiled"]


def test_pixels_agree() -> None:
    """What the network sees of a photo, where the reference's size arithmetic is without fault."""
    golden = load_file(GOLDEN / "util" / "preprocess_pixels.safetensors")
    pipe = golden_pipeline("s/tiled_t195")
    photo = golden["case1_input_u8"].permute(2, 0, 1) / 255
    encode = next(pipe.upscale(photo, scale=4))[0]
    assert ((encode.tensor - golden["case1_lq"][0]) * 127.5).abs().max() <= 1


@pytest.mark.parametrize(("case", "scale"), [("case1", 4), ("case3", 4)])
def test_pixels_pass_through(case: str, scale: float) -> None:
    """The way around the networks: what comes out when they change nothing.

    Where the reference truncates sizes (case 3: 152 pixels of 158) edges differ, by less than two levels on average.
    """
    golden = load_file(GOLDEN / "util" / "preprocess_pixels.safetensors")
    pipe = golden_pipeline("s/tiled_t195")
    steps = pipe.upscale(golden[f"{case}_input_u8"].permute(2, 0, 1) / 255, scale=scale, color_fix="none")
    (encode,) = next(steps)
    latent = torch.zeros(4, *(side // 8 for side in encode.tensor.shape[1:]))
    predicts = steps.send([latent])
    steps.send([op.tensor for op in predicts])
    with pytest.raises(StopIteration) as end:
        steps.send([encode.tensor])
    expected = golden[f"{case}_passthrough_output_u8"].permute(2, 0, 1)
    error = (end.value.value * 255 - expected).abs().round()
    assert end.value.value.shape == expected.shape
    assert error.mean() <= 2
    if case == "case1":
        assert (error > 1).float().mean() <= 1e-4


def test_the_snr_of_the_latents_agrees() -> None:
    """What the search for the mid-timestep stands on: the bare VAE's latents, ᾱ, and the gap of their SNRs."""
    golden = load_file(GOLDEN / "util" / "midtimestep_s.safetensors")
    pipe = golden_pipeline("s/tiled_t195", adapters=False)
    z_l, z_h = pipe.encode(golden["lq"]), pipe.encode(golden["hq"])
    assert_close(z_l, golden["z_L"])
    assert_close(z_h, golden["z_H"])
    power = z_h.square().mean((1, 2, 3))
    snr = power / (z_l - z_h).square().mean((1, 2, 3))
    assert torch.allclose(snr, golden["snr_L"], rtol=1e-4)
    alpha_bar = pipe.denoiser.schedule.alpha_bar
    gap = ((alpha_bar / (1 - alpha_bar))[:, None] * power - snr).abs().mean(1)
    assert torch.allclose(gap, golden["mean_abs_snr_gap_by_t"], rtol=1e-3)
    assert int(gap.argmin()) == json.loads((GOLDEN / "util" / "midtimestep_s.json").read_text())["best_t"]
