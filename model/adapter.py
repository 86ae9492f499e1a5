"""Adapters: the authors' PEFT folders, checked key by key and merged into the base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from model.errors import ModelFilesError
from model.files import Tensors, empty_component, load_tensors

WEIGHTS = "adapter_model.safetensors"
VAE_ADAPTER = {"sd": "vae_encoder_lora_adapter", "flux": "vae_encoder_adapter"}
DENOISER_ADAPTER = {"sd": "unet_lora_adapter", "flux": "flux_adapter"}
"""The authors' folder names, by family."""


def find_adapter(folder: Path, names: Mapping[str, str]) -> Path:
    """The one subfolder of `folder` that goes by one of the authors' names. Raises ModelFilesError if there is none."""
    found = [folder / name for name in names.values() if (folder / name).is_dir()]
    if len(found) != 1:
        raise ModelFilesError(f"{folder} must hold exactly one of {', '.join(names.values())}; it holds {len(found)}")
    return found[0]


def merge(module: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Add the adapter in `folder` to the weights of `module`, in place: summed in float32, rounded to `dtype` once.

    Raises ModelFilesError if a key is missing or unexpected, if a tensor's shape does not fit the base, or if the
    adapter is of a kind that the authors do not make (DoRA, biases, whole modules).
    """
    adapted, tensors = _adapted(module, folder)
    set_peft_model_state_dict(adapted, tensors)
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            weight.data = (weight.float() + layer.get_delta_weight("default").float()).to(dtype)
    adapted.unload()
    module.requires_grad_(False)


class Deltas:
    """What the adapter in a folder adds to a model's weights, one weight at a time. Linear layers only.

    `module` is on the meta device and stays as it is. Raises as `merge`.
    """

    def __init__(self, module: nn.Module, folder: Path) -> None:
        with torch.device("meta"):
            adapted, _ = _adapted(module, folder)
        self._tensors = Tensors([folder / WEIGHTS])
        layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
        self._scales: dict[str, float] = {name: layer.scaling["default"] for name, layer in layers.items()}
        adapted.unload()
        module.requires_grad_(False)

    def of(self, key: str, device: torch.device) -> Tensor | None:
        """The float32 difference for the parameter `key`: scale·B·A; None where the adapter leaves it alone."""
        name, _, kind = key.rpartition(".")
        if kind != "weight" or name not in self._scales:
            return None
        a, b = (
            self._tensors[f"base_model.model.{name}.{side}.weight"].to(device, torch.float32)
            for side in ("lora_A", "lora_B")
        )
        return (b @ a) * self._scales[name]


def restore_adapter(adapted: PeftModel, folder: Path) -> None:
    """Put the tensors of the adapter in `folder` into `adapted`, unmerged, to train on.

    Raises as `merge`, and ModelFilesError if rank or scale are not those of `adapted`.
    """
    theirs, own = _lora_config(folder), adapted.peft_config["default"]
    if (theirs.r, theirs.lora_alpha) != (own.r, own.lora_alpha):
        raise ModelFilesError(
            f"{folder} has rank {theirs.r} and alpha {theirs.lora_alpha}, the recipe asks for rank {own.r} "
            f"(alpha is always the rank): set adapters.encoder_rank and denoiser_rank, or start from another folder"
        )
    tensors = load_tensors(folder / WEIGHTS)
    _check(folder, expected=get_peft_model_state_dict(adapted), found=tensors)
    set_peft_model_state_dict(adapted, tensors)


def check_adapter(model_class: Any, config: Path, part: str, folder: Path) -> None:
    """Whether the adapter in `folder` fits `part` of the diffusers model whose config lies in the folder `config`.

    Costs no memory: the model is built without weights. Raises as `merge`.
    """
    model = empty_component(model_class, config)
    with torch.device("meta"):
        _adapted(model.get_submodule(part), folder)


def _adapted(module: nn.Module, folder: Path) -> tuple[PeftModel, dict[str, Tensor]]:
    """`module` with LoRA layers as the folder's config says, and the folder's tensors, which fit them."""
    config, tensors = _lora_config(folder), load_tensors(folder / WEIGHTS)
    adapted = get_peft_model(module, config)
    _check(folder, expected=get_peft_model_state_dict(adapted), found=tensors)
    return adapted, tensors


def _lora_config(folder: Path) -> Any:
    """The config of the adapter in `folder`, if it is plain LoRA."""
    if not (folder / "adapter_config.json").is_file():
        raise ModelFilesError(f"{folder} is no PEFT adapter: adapter_config.json is missing")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        plain = not (config.use_dora or config.modules_to_save) and config.bias == "none"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFilesError(f"{folder}/adapter_config.json cannot be read: {error}") from error
    if not plain:
        raise ModelFilesError(f"{folder} is more than LoRA (DoRA, biases or whole modules): only LoRA can be merged")
    return config


def _check(folder: Path, *, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    faults = [f"missing key {key}" for key in expected if key not in found]
    faults += [f"unexpected key {key}" for key in found if key not in expected]
    faults += [
        f"{key} has shape {list(found[key].shape)}, the base needs {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ModelFilesError(
            f"{folder} does not fit this base: {'; '.join(faults[:3])}{more}. "
            "Take the adapter and the base of the same release, or fetch the adapter again."
        )
