"""The fixed prompt, as embeddings: the text encoders that made them are never resident while serving."""

from pathlib import Path

from torch import Tensor

from model.errors import ModelFilesError
from model.files import load_tensors


def load_prompt(prompt: str | Path | Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompt embeddings from a safetensors file, or as they are.

    `prompt_embeds` [1,T,C] for S; `pooled_prompt_embeds` [1,P] besides for F. Raises ModelFilesError otherwise.
    """
    if isinstance(prompt, Tensor):
        return {"prompt_embeds": prompt}
    tensors = prompt if isinstance(prompt, dict) else load_tensors(Path(prompt))
    if "prompt_embeds" not in tensors or tensors["prompt_embeds"].ndim != 3:
        raise ModelFilesError(f"{prompt if not isinstance(prompt, dict) else 'the prompt'} needs prompt_embeds [1,T,C]")
    return tensors
