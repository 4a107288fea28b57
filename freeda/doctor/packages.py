"""Packages that exclude one another, and files of packages that are missing or replaced."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from importlib.util import find_spec

from freeda.doctor.findings import Finding

__all__ = ["package_findings"]

_FAISS = ("faiss-gpu", "faiss-cpu")
_OPENCV = (
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-python",
)
"""The one that has everything this package needs comes first."""
_WITHOUT_IT = {"starlette": "web", "s3fs": "s3", "gruut": "gruut", "spacy": "spacy"}
"""Packages of extras, and the extra of each."""


def package_findings() -> Iterator[Finding]:
    """Python, PyTorch, FAISS, OpenCV, and the extras that are not installed."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield _torch()
    yield from _one_of("faiss", _FAISS, "faiss", wanted=_installed(_FAISS)[:1] or _FAISS[:1])
    yield from _one_of("opencv", _OPENCV, "cv2", wanted=_OPENCV[:1])
    missing = [extra for package, extra in _WITHOUT_IT.items() if find_spec(package) is None]
    if missing:
        cure = f"where you want them: pip install 'freeda[{','.join(missing)}]'"
        yield Finding("extras", "note", f"not installed: {', '.join(missing)}", cure)


def _torch() -> Finding:
    found = version("torch")
    if found.split("+")[0] == "2.13.0":
        return Finding("torch", "broken", f"{found} breaks torchvision", "pip install 'torch!=2.13.0'")
    return Finding("torch", "ok", found)


def _one_of(subject: str, names: Sequence[str], module: str, *, wanted: Sequence[str]) -> Iterator[Finding]:
    """Whether one of several packages with the same module is installed, whole, and is the one wanted."""
    held, (chosen,) = _installed(names), wanted
    again = f"pip uninstall -y {' '.join(held)} && pip install {chosen}"
    if not held:
        yield Finding(subject, "broken", "not installed", f"pip install {chosen}")
    elif len(held) > 1:
        yield Finding(subject, "broken", f"{' and '.join(held)} overwrite each other", again)
    elif chosen not in held:
        yield Finding(subject, "broken", f"{held[0]} lacks parts that are needed", again)
    elif damaged := _damaged_files(distribution(chosen), module):
        cure = f"pip install --force-reinstall --no-deps {chosen}"
        yield Finding(subject, "broken", f"files of {chosen} are missing or replaced: {damaged}", cure)
    else:
        yield Finding(subject, "ok", f"{chosen} {version(chosen)}")


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
