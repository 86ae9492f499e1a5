"""Generate the gRPC code from upscale.proto, or with --check say whether the committed code is what it generates."""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCE = "omgsr/v1/upscale.proto"
KINDS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate(out: str) -> None:
    includes = ["-Iproto", f"-I{files('grpc_tools') / '_proto'}", f"-I{google_rpc()}"]
    code = protoc.main(
        ["protoc", *includes, f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}", SOURCE]
    )
    if code:
        sys.exit(code)


def google_rpc() -> Path:
    """The folder that holds google/rpc/status.proto."""
    return Path(str(files("google.rpc") / "status.proto")).parents[2]


if "--check" in sys.argv:
    with tempfile.TemporaryDirectory() as fresh:
        generate(fresh)
        names = [SOURCE.replace(".proto", kind) for kind in KINDS]
        stale = [name for name in names if (Path(fresh) / name).read_text() != (Path("proto") / name).read_text()]
    sys.exit(f"{', '.join(stale)}: not what upscale.proto generates; run `make proto`" if stale else 0)
generate("proto")
