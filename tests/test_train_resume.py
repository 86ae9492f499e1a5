"""Runs that are killed, stopped or spread over processes end where an undisturbed one ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training import tiny_recipe, write_recipe

ROOT = Path(__file__).parent.parent
TRAIN = (sys.executable, "-m", "service.cli", "train")
TWO_PROCESSES = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}


def start(recipe: Path, *launcher: str) -> subprocess.Popen[str]:
    command = [*(launcher or TRAIN), str(recipe)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def run_until(recipe: Path, line: str, number: signal.Signals) -> str:
    """Start the run, send it `number` when it says `line`, and give back all that it said."""
    said = []
    with start(recipe) as process:
        for text in process.stdout or ():
            said.append(text)
            if text.startswith(line):
                process.send_signal(number)
    return "".join(said)


def trained(recipe: dict) -> dict[str, Tensor]:
    """Everything that the last checkpoint holds of adapters and discriminator, and both optimizers' moments."""
    last = sorted((Path(recipe["run"]) / "checkpoints").glob("step-*"))[-1]
    tensors = {}
    for file in sorted(last.glob("trained-*.safetensors")):
        tensors |= {f"{file.stem}.{name}": tensor for name, tensor in load_file(file).items()}
    for file in sorted(last.glob("optimizer*.bin")):
        for index, slots in torch.load(file, weights_only=True)["state"].items():
            tensors |= {f"{file.stem}.{index}.{name}": slot for name, slot in slots.items()}
    return tensors


def exported(recipe: dict) -> dict[str, Tensor]:
    """The finished variant's adapters, which are the averaged ones."""
    files = sorted(Path(recipe["run"]).glob("*_adapter/*.safetensors"))
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def losses(output: str) -> dict[str, str]:
    """What was said of each step, without the time."""
    lines = [line.split("  ") for line in output.splitlines() if line.startswith("step ")]
    return {line[0]: " ".join(line[2:]) for line in lines}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    everything = {"steps": 20, "ema": 0.9, "decoder_lr_factor": 0.1}
    straight, killed = (tiny_recipe(tmp_path / name, **everything) for name in ("straight", "killed"))
    for recipe in (straight, killed):
        recipe["keeping"]["save"] = 10
    whole = finish(start(write_recipe(straight)))
    first = run_until(write_recipe(killed), "step 12", signal.SIGKILL)
    assert "step 20" not in first
    rest = finish(start(write_recipe(killed)))
    assert "resumed at step 10" in rest
    assert losses(whole) == losses(first) | losses(rest)
    assert equal(trained(straight), trained(killed))
    assert equal(exported(straight), exported(killed))


def test_sigterm_saves_the_step_in_flight(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, steps=500)
    recipe["keeping"]["save"] = 500
    said = run_until(write_recipe(recipe), "step 3 ", signal.SIGTERM)
    last = max(int(line.split()[1]) for line in said.splitlines() if line.startswith("step "))
    assert last < 20
    (checkpoint,) = (Path(recipe["run"]) / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{last:07d}"
    assert "run the same command again" in said


def test_two_processes_equal_one_that_accumulates(tmp_path: Path) -> None:
    # At the paper's rate: AdamW turns even a gradient that is rounding noise into a step of the whole rate.
    one = tiny_recipe(tmp_path / "one", steps=3, accumulate=2, lr=2e-5)
    two = tiny_recipe(tmp_path / "two", steps=3, accumulate=1, lr=2e-5)
    finish(start(write_recipe(one)))
    finish(start(write_recipe(two), *TWO_PROCESSES, *TRAIN[1:]))
    a, b = trained(one), trained(two)
    assert a.keys() == b.keys()
    assert max(float((a[name].float() - b[name].float()).abs().max()) for name in a) <= 1e-5


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tiny_recipe(tmp_path))
    alone = subprocess.run(
        [*TRAIN, str(recipe)],
        env=ENVIRONMENT | {"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "false"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert alone.returncode == 1
    assert "ACCELERATE_USE_CPU=true" in alone.stderr


def test_a_run_folder_is_not_shared_by_two_recipes_but_its_variant_may_be_renamed(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, steps=1)
    finish(start(write_recipe(recipe)))
    recipe["weights"] = {"mse": 7}
    process = start(write_recipe(recipe))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "holds another recipe's run (weights)" in said
    del recipe["weights"]
    recipe["variant"]["license"] = "CC0-1.0"
    finish(start(write_recipe(recipe), *TRAIN, "--export-only"))
    assert json.loads((Path(recipe["run"]) / "variant.json").read_text())["license"] == "CC0-1.0"
    assert "CC0-1.0" in (Path(recipe["run"]) / "README.md").read_text()


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_last_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    recipe = tiny_recipe(tmp_path, steps=6)
    recipe["keeping"] |= {"save": 2, "keep": keep}
    finish(start(write_recipe(recipe)))
    names = sorted(path.name for path in (Path(recipe["run"]) / "checkpoints").iterdir())
    assert names == ["step-0000002", "step-0000004", "step-0000006"][-keep:]
    assert json.loads((Path(recipe["run"]) / "variant.json").read_text())["mid_timestep"] == 195
