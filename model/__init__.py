"""OMGSR: one mid-timestep prediction turns a low-quality photo into a high-quality one.

The public names load on first use, so that `import model.plan` (the API process's only door into this
package) brings no torch with it.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.pipeline import OMGSRPipeline as OMGSRPipeline

# Where torchao is installed, diffusers imports it, and each start would tell of kernels that nothing here uses.
for _teller in ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree"):
    logging.getLogger(_teller).setLevel(logging.ERROR)

_HOMES = {"OMGSRPipeline": "model.pipeline"}
__all__ = ["OMGSRPipeline"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
