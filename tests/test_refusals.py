"""A model whose parts do not belong together, or are damaged, is refused with words that help."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import OMGSRPipeline
from model.errors import ModelFilesError
from model.family import family_named
from model.variant import Variant, find_variants, verify_variant
from tests.golden import GOLDEN, tiny_variant


@pytest.fixture(params=["s", "f"])
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A variant folder of tiny random weights, with its base beside it."""
    return tiny_variant(tmp_path, request.param)


def base_of(variant: Path) -> Path:
    return variant.parent / "bases" / f"tiny--{variant.name[-1]}"


def adapter_file(folder: Path) -> Path:
    (path,) = [*folder.glob("unet_lora_adapter/*.safetensors"), *folder.glob("flux_adapter/*.safetensors")]
    return path


def check_refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelFilesError, match=match):
        OMGSRPipeline.from_variant(folder)


def test_a_sound_variant_loads(variant: Path) -> None:
    assert find_variants([variant.parent]) == find_variants([variant]) == [variant]
    assert verify_variant(variant) == []
    pipe = OMGSRPipeline.from_variant(variant)
    assert pipe.variant is not None
    assert pipe.variant.name == variant.name
    assert pipe.decode(pipe.predict(pipe.encode(torch.zeros(1, 3, 128, 128)))).shape == (1, 3, 128, 128)


def test_both_name_sets_of_adapters_load(variant: Path) -> None:
    ours, theirs = ["vae_encoder_lora_adapter", "vae_encoder_adapter"]
    present = variant / ours if (variant / ours).is_dir() else variant / theirs
    present.rename(variant / (theirs if present.name == ours else ours))
    assert OMGSRPipeline.from_variant(variant)


def test_a_missing_key_is_named(variant: Path) -> None:
    tensors = load_file(adapter_file(variant))
    gone = sorted(tensors)[0]
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, adapter_file(variant))
    check_refused(variant, f"missing key {gone}")


def test_an_unexpected_key_is_named(variant: Path) -> None:
    tensors = load_file(adapter_file(variant))
    save_file({**tensors, "base_model.model.nowhere.lora_A.weight": torch.zeros(4, 4)}, adapter_file(variant))
    check_refused(variant, "unexpected key base_model.model.nowhere")


def test_a_shape_that_does_not_fit_is_named(variant: Path) -> None:
    tensors = load_file(adapter_file(variant))
    key = next(key for key in sorted(tensors) if key.endswith("to_k.lora_A.weight"))
    save_file({**tensors, key: torch.zeros(4, 7)}, adapter_file(variant))
    check_refused(variant, r"to_k\.lora_A\.weight has shape \[4, 7\], the base needs")


def test_a_base_of_equal_shapes_but_other_weights_is_refused(variant: Path) -> None:
    (weights,) = (base_of(variant) / "vae").glob("*.safetensors")
    save_file({key: tensor + 1 for key, tensor in load_file(weights).items()}, weights)
    check_refused(variant, "not the base that .* was trained on")
    with pytest.raises(ModelFilesError, match="not the base"):
        OMGSRPipeline.from_pretrained(
            base_of(variant),
            adapters=variant,
            family=Variant.read(variant).family,
            mid_timestep=195,
            prompt=variant / "prompt.safetensors",
        )
    assert any("not the base" in fault for fault in verify_variant(variant))


def test_a_base_that_says_another_id_is_refused(variant: Path) -> None:
    (base_of(variant) / "base.json").write_text(json.dumps({"id": "tiny/other"}))
    check_refused(variant, "belongs to base 'tiny/.'.* is 'tiny/other'")


def test_a_base_that_is_not_there_is_named(variant: Path) -> None:
    shutil.rmtree(variant.parent / "bases")
    check_refused(variant, "base 'tiny/.' of .* is in neither")


@pytest.mark.parametrize("where", ["vae", "denoiser", "adapter", "prompt"])
def test_a_truncated_file_is_refused(variant: Path, where: str) -> None:
    base = base_of(variant)
    path = {
        "vae": next((base / "vae").glob("*.safetensors")),
        "denoiser": next(base.glob("[ut]*/*.safetensors")),
        "adapter": adapter_file(variant),
        "prompt": variant / "prompt.safetensors",
    }[where]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFilesError):
        OMGSRPipeline.from_variant(variant)
    assert verify_variant(variant)


@pytest.mark.parametrize("where", ["vae", "denoiser"])
def test_a_truncated_bare_base_is_refused(tmp_path: Path, where: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(GOLDEN / "s" / "base", base)
    path = next((base / {"vae": "vae", "denoiser": "unet"}[where]).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFilesError, match=rf"{where[:3] if where == 'vae' else 'unet'}.*damaged or truncated"):
        OMGSRPipeline.from_pretrained(
            base,
            adapters=GOLDEN / "s" / "lora",
            family="sd",
            mid_timestep=195,
            prompt=GOLDEN / "s" / "prompt.safetensors",
        )


def test_a_variant_file_with_an_unknown_field_is_refused(variant: Path) -> None:
    fields = json.loads((variant / "variant.json").read_text())
    (variant / "variant.json").write_text(json.dumps({**fields, "colour": "red"}))
    check_refused(variant, "colour")


def test_a_prompt_of_another_width_is_refused() -> None:
    with pytest.raises(ModelFilesError, match=r"7 channels.*embed"):
        OMGSRPipeline.from_pretrained(
            GOLDEN / "s" / "base", adapters=None, family="sd", mid_timestep=195, prompt=torch.zeros(1, 4, 7)
        )


def test_sizes_the_network_cannot_take_are_refused() -> None:
    pipe = OMGSRPipeline.from_pretrained(
        GOLDEN / "f" / "base",
        adapters=GOLDEN / "f" / "lora",
        family="flux",
        mid_timestep=295,
        prompt=GOLDEN / "f" / "prompt.safetensors",
    )
    with pytest.raises(ValueError, match="multiples of 16"):
        pipe.encode(torch.zeros(1, 3, 120, 128))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="sd, flux"):
        family_named("sdxl")


def test_verify_finds_an_adapter_that_does_not_fit(variant: Path) -> None:
    tensors = load_file(adapter_file(variant))
    gone = sorted(tensors)[0]
    save_file({key: tensor for key, tensor in tensors.items() if key != gone}, adapter_file(variant))
    assert [fault for fault in verify_variant(variant) if f"missing key {gone}" in fault]


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [("use_dora", True, "more than LoRA"), ("bias", "all", "more than LoRA"), ("peft_type", "?", "cannot be read")],
)
def test_an_adapter_of_another_kind_is_refused(variant: Path, field: str, value: object, match: str) -> None:
    path = adapter_file(variant).parent / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    check_refused(variant, match)


@pytest.mark.parametrize("file", ["adapter_config.json", "base.json", "variant.json"])
def test_a_garbled_json_file_is_refused(variant: Path, file: str) -> None:
    folders = {"adapter_config.json": adapter_file(variant).parent, "base.json": base_of(variant)}
    (folders.get(file, variant) / file).write_text('{"id": ')
    check_refused(variant, file.replace(".", r"\."))
    assert verify_variant(variant)


def test_a_geometry_that_does_not_go_together_is_refused(variant: Path) -> None:
    fields = json.loads((variant / "variant.json").read_text())
    (variant / "variant.json").write_text(json.dumps({**fields, "overlap": fields["tile"]}))
    check_refused(variant, "overlap must be")


@pytest.mark.parametrize(
    ("field", "value"), [("prediction_type", "v_prediction"), ("beta_schedule", "linear"), ("beta_start", None)]
)
def test_a_base_of_another_schedule_is_refused(tmp_path: Path, field: str, value: object) -> None:
    base = tmp_path / "base"
    shutil.copytree(GOLDEN / "s" / "base", base)
    path = base / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ModelFilesError, match=r"scheduler_config\.json"):
        OMGSRPipeline.from_pretrained(
            base, adapters=None, family="sd", mid_timestep=195, prompt=GOLDEN / "s" / "prompt.safetensors"
        )
