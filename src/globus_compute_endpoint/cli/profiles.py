# SPDX-License-Identifier: Apache-2.0
"""Where endpoints of ordinary users are kept, and how their files are written."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from globus_compute_endpoint.problem import ExitStatus, Problem, cannot_write

__all__ = [
    "default_file",
    "new_directory",
    "refuse_another_users",
    "user_directory",
    "write_file",
]


def user_directory() -> Path:
    """``$GLOBUS_COMPUTE_USER_DIR``, by default ``~/.globus_compute``.

    Raises:
        Problem: root is led to another user's (NO_PERMISSION).
    """
    path = Path(os.environ.get("GLOBUS_COMPUTE_USER_DIR") or Path.home() / ".globus_compute")
    refuse_another_users(path)
    return path


def refuse_another_users(path: Path) -> None:
    """Keep root away from what others could have put there: links, pids to kill, commands to run.

    Raises:
        Problem: we are root, and ``path`` or what it links to is another user's (NO_PERMISSION).
    """
    if os.geteuid() != 0:
        return
    for follow in (False, True):
        with contextlib.suppress(FileNotFoundError):
            uid = path.stat(follow_symlinks=follow).st_uid
            if uid != 0:
                raise Problem(
                    "OF_ANOTHER_USER",
                    f"{path} is not root's, but of {_account(uid)}",
                    "run the command as that user; or use --config-dir with a directory of root's",
                    ExitStatus.NO_PERMISSION,
                )


def _account(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


def default_file(name: str) -> str:
    """A file as ``configure`` writes it."""
    return resources.files("globus_compute_endpoint.config").joinpath("defaults", name).read_text()


@contextlib.contextmanager
def new_directory(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Make an endpoint's directory, which others can look into if it is ``shared``.

    It goes again where what is done inside fails. Raises Problem where there is such an endpoint
    already, or it cannot be made.
    """
    mode = 0o755 if shared else 0o700
    try:
        directory.parent.mkdir(mode=mode, parents=True, exist_ok=True)
        directory.mkdir(mode=mode)
    except FileExistsError as error:
        raise Problem(
            "ENDPOINT_EXISTS",
            f"there is an endpoint {directory.name} already, in {directory}",
            "choose another name, or delete it first",
            ExitStatus.CANNOT_CREATE,
        ) from error
    except OSError as error:
        raise Problem(
            "CANNOT_CREATE",
            f"cannot create {directory}: {error.strerror}",
            "use --config-dir for another place",
            ExitStatus.CANNOT_CREATE,
        ) from error
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def write_file(path: Path, content: str, *, shared: bool = False) -> None:
    """Write a new file, which others can read if it is ``shared``.

    Raises Problem where that is not possible.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o644 if shared else 0o600)
            file.write(content)
    except OSError as error:
        raise cannot_write(path, error) from error
