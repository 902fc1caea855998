# SPDX-License-Identifier: Apache-2.0
"""Signals for what is forked here: it inherits handlers which are not meant for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection

__all__ = ["default_in_forks"]


def default_in_forks(numbers: Collection[signal.Signals]) -> None:
    """Have processes which this one forks from now on treat these signals as any program does.

    Else a signal to one of them is answered as one to this process: by the event loop, whose
    descriptor for signals is inherited, too (:func:`signal.set_wakeup_fd`). Handlers are taken off
    only where they are those which are set now. It holds for ``os.fork`` and what uses it
    (``multiprocessing``); :func:`exec` resets handlers by itself.
    """
    ours = {number: signal.getsignal(number) for number in numbers}
    mask = threading.local()

    def hold() -> None:  # what comes before the child has taken the handlers off would be lost
        mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.before)

    def be_mortal() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_DFL)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=be_mortal)
