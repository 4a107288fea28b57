"""Packages that exclude one another, and files of packages that are missing or replaced."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from importlib.util import find_spec

from freeda.doctor.findings import Finding

__all__ = ["package_findings"]

_ON_GPUS = sys.platform == "linux" and platform.machine() == "x86_64"
_FAISS = ("faiss-gpu", "faiss-cpu") if _ON_GPUS else ("faiss-cpu", "faiss-gpu")
_OPENCV = (
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-python",
)
_WHOLE_OPENCV = _OPENCV[:2]
"""With the module `ximgproc`. Of both lists, the first is what this package asks for."""
_WITHOUT_IT = {
    "starlette": "web",
    "uvicorn": "web",
    "s3fs": "s3",
    "gruut": "gruut",
    "gruut_lang_en": "gruut",
    "spacy": "spacy",
    "rasterio": "geo",
    "av": "video",
}
"""Packages of extras, and the extra of each."""


def package_findings() -> Iterator[Finding]:
    """Python, PyTorch, FAISS, OpenCV, and the extras that are not installed."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield _torch()
    yield from _one_of("faiss", _FAISS, "faiss", enough=_FAISS)
    yield from _one_of("opencv", _OPENCV, "cv2", enough=_WHOLE_OPENCV)
    missing = [package for package in _WITHOUT_IT if find_spec(package) is None]
    if missing:
        extras = ", ".join(sorted({_WITHOUT_IT[package] for package in missing}))
        cure = f"where you want them: pip install {' '.join(missing).replace('_', '-')}"
        yield Finding("extras", "note", f"not installed: {extras}", cure)


def _torch() -> Finding:
    if not _installed(["torch"]):
        return Finding("torch", "broken", "not installed", "pip install torch")
    found = version("torch")
    if found.split("+")[0] == "2.13.0":
        return Finding("torch", "broken", f"{found} breaks torchvision", "pip install 'torch!=2.13.0'")
    return Finding("torch", "ok", found)


def _one_of(subject: str, names: Sequence[str], module: str, *, enough: Sequence[str]) -> Iterator[Finding]:
    """Whether one of several packages with the same module is installed, whole, and has what is needed."""
    held = _installed(names)
    again = f"pip uninstall -y {' '.join(held)} && pip install {names[0]}"
    if not held:
        yield Finding(subject, "broken", "not installed", f"pip install {names[0]}")
    elif len(held) > 1:
        yield Finding(subject, "broken", f"{' and '.join(held)} overwrite each other", again)
    elif held[0] not in enough:
        yield Finding(subject, "broken", f"{held[0]} lacks parts that are needed", again)
    elif damaged := _damaged_files(distribution(held[0]), module):
        cure = f"pip install --force-reinstall --no-deps {held[0]}"
        yield Finding(subject, "broken", f"files of {held[0]} are missing or replaced: {damaged}", cure)
    else:
        yield Finding(subject, "ok", f"{held[0]} {version(held[0])}")


def _installed(names: Sequence[str]) -> list[str]:
    return [name for name in names if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _damaged_files(package: Distribution, module: str) -> str:
    """The first file of a package's module that is not as it was installed; empty where all are."""
    for file in package.files or ():
        if file.parts[0] != module or file.size is None or file.suffix == ".pyc":
            continue
        path = file.locate()
        if not path.is_file() or path.stat().st_size != file.size:  # type: ignore[attr-defined]
            return str(file)
    return ""
