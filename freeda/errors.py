"""Every error a caller can cause. Messages say what was found, what was expected and the cure."""

from __future__ import annotations

import re
from typing import Any

__all__ = [
    "CaptionsError",
    "ClassNamesError",
    "ConfigError",
    "DatasetError",
    "ExplanationError",
    "FreedaError",
    "ImageError",
    "IndexCorruptError",
    "IndexMismatchError",
    "IndexNotFoundError",
    "ModelNotFoundError",
    "NothingBuiltError",
    "OutputError",
    "RemoteError",
    "TrainingError",
    "UnreachableError",
    "UntrustedIndexError",
    "WorkerError",
    "masked",
    "printable",
    "reason",
]

_CREDENTIALS = re.compile(r"(?<!hf)://(?:[^\s'\"/]*|[^\s'\"/]*:[^\s'\"]*)@")
"""In front of the host; after a colon up to the last @, for a password may hold any sign. In
hf://USER/NAME@REVISION there are none.
"""


class FreedaError(Exception):
    """The root of all errors raised on purpose.

    Its text is one line that never shows the password in a URL, nor a control character of somebody's file.
    """

    def __str__(self) -> str:
        return printable(masked(super().__str__()))


class ConfigError(FreedaError, ValueError):
    """A preset or option has a value that cannot work."""


class ModelNotFoundError(FreedaError, OSError):
    """A model's weights are neither on this machine nor within reach."""


class IndexNotFoundError(FreedaError, FileNotFoundError):
    """No index of that name or path."""


class IndexCorruptError(FreedaError, ValueError):
    """An index whose files are not as they were written."""


class IndexMismatchError(FreedaError, ValueError):
    """An index built with other models than those it is opened with."""


class RemoteError(FreedaError, OSError):
    """An index at an address that cannot be reached, read or written."""


class UnreachableError(RemoteError):
    """An address that does not answer, for now."""


class UntrustedIndexError(FreedaError, ValueError):
    """An index that names models which nobody on this machine has named."""


class CaptionsError(FreedaError, ValueError):
    """Captions that cannot be read, or from which nothing can be built."""


class NothingBuiltError(CaptionsError):
    """No caption gave a prototype.

    rejects: a table of all captions with the reason of each; None where not all were tried.
    """

    def __init__(self, message: str, rejects: Any = None) -> None:
        super().__init__(message)
        self.rejects = rejects


class ClassNamesError(FreedaError, ValueError):
    """A list of class names that is empty, ambiguous or unreadable."""


class ImageError(FreedaError, ValueError):
    """A file or array that is no usable image."""


class DatasetError(FreedaError, ValueError):
    """A data set that is missing, incomplete, or labelled differently than its name says."""


class ExplanationError(FreedaError, ValueError):
    """A pixel outside the image, or a method that cannot explain its results."""


class OutputError(FreedaError, OSError):
    """A file or folder that cannot be written."""


class WorkerError(FreedaError, RuntimeError):
    """The batch job lost its workers or a task failed for good."""


class TrainingError(FreedaError, RuntimeError):
    """A training that diverged, or whose folder holds another one."""


def masked(text: str) -> str:
    """A text whose URLs have no user names, keys and passwords: `s3://***@bucket`."""
    return _CREDENTIALS.sub("://***@", text)


def printable(text: str) -> str:
    """A text of others on one line without control characters, which could steer a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def reason(error: BaseException) -> str:
    """What went wrong, in one line: "No space left on device" rather than "[Errno 28] ..."."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0]
