"""`freeda doctor` on this environment, and on ones that are broken on purpose."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import freeda
from freeda.commands.doctor import doctor_command

PACKAGE = Path(freeda.__file__).parent


def doctor(*first_on_path: Path, home: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Its exit code and findings by subject. Modules and packages of some folders come before others."""
    path = os.pathsep.join(map(str, first_on_path))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "FREEDA_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
    }
    command = [sys.executable, "-m", "freeda.cli", "doctor", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, timeout=200)
    assert told.stdout, told.stderr
    return told.returncode, {item["subject"]: item for item in json.loads(told.stdout)}


def installed(
    folder: Path, name: str, files: dict[str, bytes], recorded: dict[str, bytes] | None = None
) -> None:
    """A package as pip leaves it. recorded: what its files held when they were installed."""
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    info = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    lines = []
    for file, content in (recorded or files).items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{file},sha256={digest},{len(content)}")
    (info / "RECORD").write_text("\n".join(lines) + "\n")


@pytest.fixture
def own_home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "presets").mkdir(parents=True)
    return tmp_path / "home"


def test_this_environment_is_in_order(own_home: Path) -> None:
    code, found = doctor(home=own_home)
    assert code == 0, found
    assert not [item for item in found.values() if item["status"] == "broken"]
    assert found["torch"]["found"] == version("torch")
    sizes = {
        part.name: sum(path.stat().st_size for path in part.rglob("*.safetensors"))
        for part in (PACKAGE / "toyworld" / "weights").iterdir()
    }
    told = found["preset toy"]["found"]
    for role, folder in (("diffusion", "diffusion"), ("clip", "clip"), ("backbone", "dense")):
        assert f"{role} {sizes[folder] / 1e6:,.0f} MB" in told
    share = float(found["toy answer"]["found"].split("%")[0])
    assert share > 95
    assert found["preset sd15-vitb"]["status"] == "note"
    assert "not on this machine: diffusion stable-diffusion-v1-5" in found["preset sd15-vitb"]["found"]


def test_both_builds_of_faiss_are_told_with_the_cure(own_home: Path, tmp_path: Path) -> None:
    names = {"faiss-cpu", "faiss-gpu"}
    here = next(name for name in names if _has(name))
    (other,) = names - {here}
    installed(tmp_path / "site", other, {})
    code, found = doctor(tmp_path / "site", home=own_home)
    assert code == 1
    assert found["faiss"]["status"] == "broken"
    assert "faiss-gpu and faiss-cpu overwrite each other" in found["faiss"]["found"]
    assert found["faiss"]["cure"].startswith("pip uninstall -y faiss-gpu faiss-cpu && pip install faiss-")
    assert "toy answer" not in found  # nothing is imported that may be broken


def test_opencv_beside_the_headless_one_is_told(own_home: Path, tmp_path: Path) -> None:
    installed(tmp_path / "site", "opencv-python", {})
    code, found = doctor(tmp_path / "site", home=own_home)
    assert code == 1
    cure = found["opencv"]["cure"]
    assert cure.endswith("opencv-python && pip install opencv-contrib-python-headless")


@pytest.mark.parametrize("damage", ["replaced", "missing"])
def test_files_that_another_package_took_along_are_told(own_home: Path, tmp_path: Path, damage: str) -> None:
    here = "faiss-gpu" if _has("faiss-gpu") else "faiss-cpu"
    held = {"faiss/__init__.py": b"import os\n", "faiss/lib.so": b"binary"}
    left = {**held, "faiss/lib.so": b"another binary"}
    if damage == "missing":
        del left["faiss/lib.so"]
    installed(tmp_path / "site", here, left, held)
    code, found = doctor(tmp_path / "site", home=own_home)
    assert code == 1
    assert f"files of {here} are missing or replaced: faiss/lib.so" in found["faiss"]["found"]
    assert found["faiss"]["cure"] == f"pip install --force-reinstall --no-deps {here}"


def test_a_missing_weight_of_the_package_is_told(own_home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site" / "freeda"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "toyworld" / "weights" / "clip" / "open_clip_model.safetensors").unlink()
    shutil.copytree(PACKAGE.parent / "indexes" / "toy", copy / "indexes" / "toy")
    code, found = doctor(tmp_path / "site", home=own_home)
    assert code == 1
    assert found["preset toy"]["status"] == "broken"
    assert "not on this machine: clip package:toyworld/weights/clip" in found["preset toy"]["found"]
    assert found["toy answer"]["status"] == "broken"
    assert "no CLIP model could be loaded" in found["toy answer"]["found"]


def test_own_presets_are_looked_at(own_home: Path, tiny_preset: freeda.Preset) -> None:
    from freeda.presets.toml import to_toml

    (own_home / "presets" / "mine.toml").write_text(to_toml(tiny_preset))
    (own_home / "presets" / "wrong.toml").write_text("models = 3\n")
    code, found = doctor(home=own_home)
    assert code == 1
    assert found["preset mine"]["status"] == "ok"
    assert "diffusion" in found["preset mine"]["found"]
    assert (found["preset wrong"]["status"], found["preset wrong"]["cure"]) == (
        "broken",
        "mend or remove the file",
    )


def test_weights_in_the_hub_s_cache_are_counted(own_home: Path) -> None:
    """As `hf download` leaves them: a snapshot of links to blobs."""
    repository = own_home / "hub" / "models--timm--vit_base_patch14_dinov2.lvd142m"
    blob, snapshot = repository / "blobs" / "abc", repository / "snapshots" / ("1" * 40)
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(b"x" * 3_000_000)
    (snapshot / "model.safetensors").symlink_to(blob)
    (snapshot / "other.safetensors").symlink_to(repository / "blobs" / "gone")
    part = own_home / "hub" / "models--runwayml--stable-diffusion-v1-5" / "snapshots" / "1" / "text_encoder"
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(b"x")  # the other parts were never fetched
    found = doctor(home=own_home)[1]["preset sd15-vitb"]
    assert "backbone" not in found["found"]
    assert "not on this machine: diffusion" in found["found"]


def test_the_text_says_the_same(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    told = CliRunner().invoke(doctor_command, [])
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[0].startswith("ok     python ")
    assert any(line.startswith("ok     toy answer ") for line in told.output.splitlines())


def _has(name: str) -> bool:
    from freeda.doctor.packages import _is_installed

    return _is_installed(name)


def test_a_check_that_fails_itself_is_a_finding_and_the_others_go_on(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "timm.py").write_text("raise RuntimeError('no\\x1b[31m such symbol')\n")
    code, found = doctor(tmp_path / "site", home=own_home)
    assert code == 1
    assert found["preset sd15-vitb"]["status"] == "broken"
    assert found["preset sd15-vitb"]["found"] == "RuntimeError: no\N{REPLACEMENT CHARACTER}[31m such symbol"
    assert found["toy answer"]["status"] == "broken"
    assert found["preset toy"]["status"] == "ok"


def test_opencv_with_windows_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    from freeda.doctor import packages

    monkeypatch.setattr(
        packages, "_installed", lambda names: [n for n in names if n == "opencv-contrib-python"]
    )
    monkeypatch.setattr(packages, "_damaged_files", lambda *_: "")
    monkeypatch.setattr(packages, "distribution", lambda name: name)
    monkeypatch.setattr(packages, "version", lambda name: "5.0")
    (found,) = packages._one_of("opencv", packages._OPENCV, "cv2", enough=packages._WHOLE_OPENCV)
    assert (found.status, found.found) == ("ok", "opencv-contrib-python 5.0")
