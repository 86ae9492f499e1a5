"""The API process carries no torch: neither does anything that it imports. A worker loads networks late."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"}


@pytest.mark.parametrize(
    "module", ["service.api.app", "service.queue.queue", "service.queue.blobs", "service.images", "model", "model.plan"]
)
def test_no_torch_comes_along(module):
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert module in loaded
    assert not HEAVY & set(loaded)


def test_a_whole_application_carries_no_torch():
    code = (
        "import sys; from service.api.app import create_app; from service.settings import Settings;"
        "create_app(Settings()).openapi(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_a_worker_that_serves_another_device_brings_no_networks():
    code = "import service.worker.process, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"diffusers", "transformers", "peft", "accelerate"} & set(loaded)
