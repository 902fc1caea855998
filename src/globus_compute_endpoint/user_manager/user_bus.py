# SPDX-License-Identifier: Apache-2.0
"""The user's own service manager (``systemd --user``), where there is one to rely on.

See systemd-logind(8) and loginctl(1): without lingering it ends with the user's last login, and
takes its scopes along, which an endpoint in the background is to survive.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from jeepney.wrappers import DBusErrorResponse

from globus_compute_endpoint.host.systemd import ServiceManager

__all__ = ["user_service_manager"]

log = logging.getLogger(__name__)

_LINGER = Path("/var/lib/systemd/linger")


@contextlib.asynccontextmanager
async def user_service_manager(
    uname: str, on_lost: Callable[[], None]
) -> AsyncIterator[ServiceManager | None]:
    """Connect to it; None where user endpoints are better off without.

    ``on_lost`` is called should it go away.
    """
    address = _address()
    if address is None:
        log.info("no user bus: user endpoints are plain processes, without limits of their own")
        yield None
        return
    if not (_LINGER / uname).exists() and not _in_user_manager():
        log.info(
            "user endpoints are plain processes, without limits of their own: scopes would end with"
            " your last login (to have them: loginctl enable-linger)"
        )
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        try:
            connecting = ServiceManager.connect(on_lost, address=address)
            manager = await stack.enter_async_context(connecting)
        except (OSError, TimeoutError, DBusErrorResponse) as error:
            log.warning("the user bus does not answer: %s", error)
            manager = None
        yield manager


def _address() -> str | None:
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    path = Path(runtime) / "bus"
    return f"unix:path={path}" if path.is_socket() else None


def _in_user_manager() -> bool:
    """Whether we would end with it anyway."""
    with contextlib.suppress(OSError):
        return f"/user@{os.getuid()}.service/" in Path("/proc/self/cgroup").read_text()
    return False
