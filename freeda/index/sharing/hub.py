"""The Hugging Face hub: an index is a data set's repository there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from freeda.errors import FreedaError, RemoteError, UnreachableError, reason
from freeda.index.sharing.addresses import HubAddress
from freeda.index.sharing.fetched import is_local, local_error

__all__ = ["Published", "fetch_file", "is_commit", "resolve_commit", "upload"]

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Published:
    """What was published. url: of the repository. commit: of all its files together."""

    url: str
    commit: str


def is_commit(revision: str) -> bool:
    """Whether a revision is a whole commit, which stands for the same files for ever."""
    return _COMMIT.fullmatch(revision) is not None


def resolve_commit(address: HubAddress) -> str:
    """The commit that an address stands for now. Raises `RemoteError`, `UnreachableError`."""
    from huggingface_hub import HfApi

    with _hub_errors(str(address), Path()):
        found = HfApi().dataset_info(address.repository, revision=address.revision, timeout=30).sha
    if found is None or not is_commit(found):
        raise RemoteError(f"the hub names no commit of {address}")
    return found


def fetch_file(address: HubAddress, commit: str, name: str, folder: Path, *, most: int) -> None:
    """Fetches one file of a commit into a folder, unless it is there.

    Raises `RemoteError`, also for a file of more than `most` bytes.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if (folder / name).exists():
        return
    with _hub_errors(f"{name} of {address}", folder):
        told = HfApi().get_paths_info(address.repository, name, repo_type="dataset", revision=commit)
        if not told:
            raise RemoteError(f"{name} of {address} is not there; is it an index?")
        if getattr(told[0], "size", 0) > most:
            raise RemoteError(f"{name} of {address} has more than {most:,} bytes")
        hf_hub_download(address.repository, name, repo_type="dataset", revision=commit, local_dir=folder)


def upload(
    files: Mapping[str, Path | bytes], repository: str, *, private: bool, revision: str, message: str
) -> Published:
    """Makes a data set's repository where there is none, and adds files to it in one commit.

    files: paths or contents, by name.
    Raises `RemoteError`, also for a repository that others see and that was to be private.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with _hub_errors(f"hf://{repository}", Path()):
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.dataset_info(repository).private:
            raise RemoteError(
                f"hf://{repository} is there already and public; make it private on its page, or name another"
            )
        if revision != "main":
            api.create_branch(repository, repo_type="dataset", branch=revision, exist_ok=True)
        done = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message,
            repo_type="dataset",
            revision=revision,
        )
    return Published(str(done.repo_url), done.oid)


@contextmanager
def _hub_errors(what: str, folder: Path) -> Iterator[None]:
    """The hub's errors as one line, with what helps. folder: that is written to."""
    from huggingface_hub import errors

    try:
        yield
    except FreedaError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise RemoteError(f"{what}: no token of the hub on this machine; run `hf auth login`") from error
    except errors.GatedRepoError as error:
        raise RemoteError(
            f"{what} asks for an agreement; accept it on its page, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise RemoteError(
            f"{what}: the hub has no such data set, or shows it to others only; look at its name, or run "
            f"`hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RemoteError(f"{what}: the hub knows no such revision") from error
    except errors.EntryNotFoundError as error:
        raise RemoteError(f"{what} is not there; is it an index?") from error
    except errors.HFValidationError as error:
        raise RemoteError(f"{what}: {reason(error)}") from error
    except ValueError as error:
        raise RemoteError(f"{what}: {' '.join(str(error).split())}") from error
    except _other_errors() as error:
        own = not isinstance(error, errors.HfHubHTTPError)
        if own and isinstance(error, OSError) and is_local(error):
            raise local_error(folder, error) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None and status < 500:
            raise RemoteError(f"{what}: the hub refuses: {status}, {_told(error)}") from error
        raise UnreachableError(f"{what}: the hub cannot be reached: {_told(error)}") from error


def _other_errors() -> tuple[type[Exception], ...]:
    """`OSError`, and those of the library that huggingface_hub speaks through; its versions differ in it."""
    from huggingface_hub.errors import HfHubHTTPError

    own = ("builtins", "huggingface_hub")
    bases = [kind for kind in HfHubHTTPError.__mro__ if kind.__module__.split(".")[0] not in own]
    return (OSError, *(kind for kind in bases if issubclass(kind, Exception)))


def _told(error: BaseException) -> str:
    return getattr(error, "server_message", None) or reason(error)
