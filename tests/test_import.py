"""`omgsr models import`: the authors' bare folders, and archives that anybody may have made, become variants."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from model import OMGSRPipeline
from model.archive import unpack
from model.errors import ModelFilesError
from model.variant import Variant, verify_variant
from tests.golden import GOLDEN, tiny_variant
from tests.hub import tiny_hub
from tests.weights import adapters, base_f, base_s, omgsr, words

PHOTO = GOLDEN / "s" / "e2e_adain_t195" / "in" / "a32x32.png"


def test_a_bare_folder_and_a_base_beside_it_become_a_variant(tmp_path: Path) -> None:
    base, folder = base_s(tmp_path / "my-turbo"), adapters(tmp_path / "release" / "OMGSR-S", "s")
    ran = omgsr(
        None, "models", "import", folder, "--family", "sd", "--base", base, "--base-id", "tiny/s", "--offline",
        "--mid-timestep", "273", "--prompt", "a photo", "--size", "128", "--name", "mine",
        "--into", tmp_path / "models",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    assert "mine is ready: base tiny/s, t_m 273, 128 px, prompt 'a photo'" in words(ran.stdout)
    made = tmp_path / "models" / "mine"
    assert verify_variant(made) == []
    variant = Variant.read(made)
    assert (variant.mid_timestep, variant.native_size, variant.tile, variant.overlap) == (273, 128, 16, 8)
    assert (made / "README.md").read_text().count("273") == 1
    shutil.rmtree(base)
    with Image.open(PHOTO) as photo:
        (image,) = OMGSRPipeline.from_variant(made, fold=True, dtype=torch.float32)([photo], scale=4)
    assert image.size == (128, 128)
    again = omgsr(None, "models", "import", folder, "--family", "sd", "--name", "mine", "--into", tmp_path / "models")
    assert "exists already" in again.stderr


def test_a_family_is_told_by_its_folders(tmp_path: Path) -> None:
    folder, base = adapters(tmp_path / "OMGSR-F", "f"), base_f(tmp_path / "tiny-f")
    words_of = ("models", "import", folder, "--base", base, "--into", tmp_path / "models")
    assert "give --family sd, or --family flux" in words(omgsr(None, *words_of).stderr)
    wrong = words(omgsr(None, *words_of, "--family", "sd").stderr)
    assert "must hold vae_encoder_lora_adapter and unet_lora_adapter" in wrong
    assert "it holds flux_adapter, vae_encoder_adapter" in wrong
    ran = omgsr(None, *words_of, "--like", "omgsr-f-512-later")
    assert ran.exit_code == 0, ran.stderr
    assert Variant.read(tmp_path / "models" / "omgsr-f").mid_timestep == 244
    assert verify_variant(tmp_path / "models" / "omgsr-f") == []


def test_adapters_that_belong_elsewhere_are_refused(tmp_path: Path) -> None:
    base = base_s(tmp_path / "sd-turbo")
    said_so = adapters(tmp_path / "a", "s")
    config = said_so / "unet_lora_adapter" / "adapter_config.json"
    told = json.loads(config.read_text()) | {"base_model_name_or_path": "/data/stable-diffusion-2-1-base"}
    config.write_text(json.dumps(told))
    pickled = adapters(tmp_path / "b", "s")
    weights = pickled / "unet_lora_adapter" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    truncated = adapters(tmp_path / "c", "s")
    weights = truncated / "unet_lora_adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    other = tiny_variant(tmp_path / "other", "s")
    fields = json.loads((other / "variant.json").read_text())
    fields["base"]["sha256"] = "0" * 64
    (other / "variant.json").write_text(json.dumps(fields))
    for folder, said in [
        (said_so, "was trained on /data/stable-diffusion-2-1-base, not on sd-turbo"),
        (pickled, "never from .bin"),
        (truncated, "is damaged or truncated"),
        (other, "is not the base that tiny-s was trained on"),
    ]:
        family = () if folder == other else ("--family", "sd")
        ran = omgsr(
            None, "models", "import", folder, *family, "--base", base, "--name", "mine", "--accept-license",
            "--into", tmp_path / "models",
        )  # fmt: skip
        assert ran.exit_code == 1
        assert said in words(ran.stderr)
        assert not (tmp_path / "models" / "mine").exists()


def _zip(source: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in source.rglob("*"):
            opened.write(path, Path("OMGSR-S-512") / path.relative_to(source))


def _tar_gz(source: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(source, "weights/OMGSR-S-512")


@pytest.mark.parametrize(("pack", "name"), [(_zip, "omgsr.zip"), (_tar_gz, "omgsr.tar.gz")])
def test_an_archive_behind_a_url_is_taken(
    tmp_path: Path, pack: Callable[[Path, Path], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**14)
    (tmp_path / "www").mkdir()
    pack(GOLDEN / "s" / "lora", tmp_path / "www" / name)
    (tmp_path / "www" / "page.html").write_text("<html>Confirm your download</html>")
    base = base_s(tmp_path / "tiny-s")
    pull = ("models", "pull", "omgsr-s-512", "--base", base, "--accept-license", "--into", tmp_path / "models")
    with tiny_hub(tmp_path / "www") as hub:
        for address, said in [
            (f"{hub.url}/{name}#sha256={'0' * 64}", "has another sha256"),
            (f"{hub.url}/page.html", "is no zip or tar archive"),
            (f"{hub.url}/none.zip?signature=secret", "none.zip cannot be fetched (status 404)"),
        ]:
            ran = omgsr(hub, *pull, "--adapters", address)
            assert ran.exit_code == 1
            assert said in words(ran.stderr)
            assert "secret" not in ran.stderr
        hub.cut_after = 100_000
        ran = omgsr(hub, *pull, "--adapters", f"{hub.url}/{name}")
        assert "repeat the command, and it goes on" in words(ran.stderr)
        hub.down = False
        ran = omgsr(hub, *pull, "--adapters", f"{hub.url}/{name}", HF_TOKEN="secret")
        assert ran.exit_code == 0, ran.stderr
        assert set(hub.ranges()) == {f"bytes={100_000 // 2**14 * 2**14}-"}
        assert not [one for one in hub.asked if one.token], "a hub's token is for the hub"
    assert verify_variant(tmp_path / "models" / "omgsr-s-512") == []


def test_an_archive_cannot_write_elsewhere_or_fill_the_disk(tmp_path: Path) -> None:
    for name in ("../evil/variant.json", "/tmp/evil/variant.json", "a\\..\\..\\variant.json", "c:\\variant.json"):
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
            opened.writestr(name, "{}")
        with pytest.raises(ModelFilesError, match="leads out of its folder"):
            unpack(tmp_path / "evil.zip", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "away").symlink_to(tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "link.tar", "w") as opened:
        opened.add(tmp_path / "away", "away")
        inside = tarfile.TarInfo("away/variant.json")
        inside.size = 2
        opened.addfile(inside, io.BytesIO(b"{}"))
    unpack(tmp_path / "link.tar", tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "out" / "away" / "variant.json").read_text() == "{}"
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros", bytes(10**7))
    with pytest.raises(ModelFilesError, match="unpacks to more"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", limit=10**6)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "bomb.zip").read_bytes()[:-30])
    with pytest.raises(ModelFilesError, match="no zip or tar archive that can be read"):
        unpack(tmp_path / "cut.zip", tmp_path / "out")
