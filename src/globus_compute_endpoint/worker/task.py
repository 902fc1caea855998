# SPDX-License-Identifier: Apache-2.0
"""Run one task: deserialize, call, serialize. The answer is a packed Result, whatever happens.

This module travels to workers by value, as source text: their environment may hold another
package of our name, or none. So it imports only what a stock worker environment has, and runs
on every Python which the SDK supports.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

from globus_compute_endpoint.worker.bytecode import OtherPython, watch_codes
from globus_compute_endpoint.worker.leftovers import end_processes

RESULT_LIMIT = 10 * 1024 * 1024  # characters of a serialized result
MESSAGE_LIMIT = 15 * 1024 * 1024  # bytes: brokers take 16 MiB, unless they are told otherwise
TEXT_LIMIT = 100_000  # characters of a traceback

_marks_lock = threading.Lock()


class NeedsProcess(Exception):
    """The task changes its process's directory: it must not run beside others in a thread."""


class TaskTimeout(BaseException):
    """The task ran longer than GC_TASK_TIMEOUT. No ``except Exception`` of a task stops it."""


class Refusal(Exception):
    """Something which the researcher can mend."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def execute(task_id: str, body: bytes, context: dict[str, Any]) -> bytes:
    """Run the packed task ``body`` and return the packed result.

    ``context`` holds ``endpoint_id``, and optionally ``allowed_serializers`` and
    ``result_serializers`` (import paths), ``directory`` (where the task runs), ``sandbox``
    (whether it gets a directory of its own in there), ``in_thread`` (the process is shared
    with other tasks), ``begun`` (then called when the function is called), ``received`` (when
    the endpoint got the task, ns), ``marks`` (the directory for start marks) and ``marks_sync``
    (whether that is read on another node).

    Raises:
        NeedsProcess: only if ``in_thread``.
    """
    started = time.time_ns()
    _mark(f"{task_id}\n", context)
    try:
        data = _run(task_id, body, context)
    except NeedsProcess:
        raise
    except Refusal as refusal:
        cause = refusal.__cause__
        text = f"{refusal}\n\n{_traceback(cause)}" if cause else str(refusal)
        return failure(task_id, refusal.code, text, context, started, user_message=str(refusal))
    except BaseException as error:  # noqa: BLE001  (all that a task does to itself is its result)
        last = traceback.format_exception_only(type(error), error)[-1].strip()
        code = "TaskTimeout" if isinstance(error, TaskTimeout) else "RemoteExecutionError"
        return failure(task_id, code, _traceback(error), context, started, user_message=last[:1000])
    from globus_compute_common.messagepack import pack
    from globus_compute_common.messagepack.message_types import Result

    packed: bytes = pack(
        Result(
            task_id=uuid.UUID(task_id),
            data=data,
            details=details(context),
            task_statuses=_transitions(context, started),
        )
    )
    if len(packed) > MESSAGE_LIMIT:  # quotes and backslashes take more than they are
        text = _too_large(len(packed), MESSAGE_LIMIT)
        return failure(task_id, "MaxResultSizeExceeded", text, context, started)
    return packed


def _too_large(size: int, limit: int) -> str:
    return (
        f"MaxResultSizeExceeded: the task's result of {size}B exceeded the limit of"
        f" {limit}B. Return less, or write it to a file and return the path."
    )


def failure(
    task_id: str,
    code: str,
    text: str,
    context: dict[str, Any],
    started: int | None = None,
    *,
    user_message: str | None = None,
) -> bytes:
    """Return a packed error result; ``text`` is what the researcher's exception shows."""
    from globus_compute_common.messagepack import pack
    from globus_compute_common.messagepack.message_types import Result, ResultErrorDetails

    text = _utf8(text)
    if len(text) > TEXT_LIMIT:
        half = TEXT_LIMIT // 2
        text = f"{text[:half]}\n[… {len(text) - TEXT_LIMIT} characters left out …]\n{text[-half:]}"
    return pack(
        Result(
            task_id=uuid.UUID(task_id),
            data=text,
            error_details=ResultErrorDetails(
                code=code, user_message=_utf8(user_message or text.splitlines()[0])
            ),
            details=details(context),
            task_statuses=_transitions(context, started),
        )
    )


def _utf8(text: str) -> str:
    # A file's name may hold bytes of another encoding, as lone surrogates: no message takes these.
    return text.encode(errors="backslashreplace").decode()


def details(context: dict[str, Any]) -> dict[str, Any]:
    """Return what a result says about where it was made."""
    known = dict(_environment())
    known["endpoint_id"] = context["endpoint_id"]
    if "unmarked" in context:
        known["start_mark"] = context["unmarked"]
    return known


@functools.lru_cache(maxsize=1)
def _environment() -> dict[str, Any]:
    from globus_compute_sdk.sdk.utils import get_env_details

    environment: dict[str, Any] = get_env_details()
    return environment


def _run(task_id: str, body: bytes, context: dict[str, Any]) -> str:
    function, args, kwargs = _deserialize(task_id, body, context)
    if context.get("in_thread"):
        if _is_shell_function(function):
            _mark(f"-{task_id}\n", context)  # it has not begun after all
            raise NeedsProcess
        if begun := context.get("begun"):
            begun()
        value = _call(function, args, kwargs)
    else:
        with _surroundings(task_id, context):
            try:
                with _deadline(task_id):
                    value = _call(function, args, kwargs)
            except TaskTimeout:
                end_processes(task_id)
                raise
            if _has_run_out_of_time(function, value):
                end_processes(task_id)
    return _serialize(value, context)


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    """Call the function; what it has forked ends here, as a program does at its end.

    Else that would answer for the task, and take further ones, as if it were the worker.
    """
    pid = os.getpid()
    try:
        value = function(*args, **kwargs)
    except BaseException as error:
        if os.getpid() != pid:
            _exit(error)
        raise
    if os.getpid() != pid:
        _exit(None)
    return value


def _exit(error: BaseException | None) -> NoReturn:
    status = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            sys.stderr.write(_traceback(error))
            sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)


def _deserialize(task_id: str, body: bytes, context: dict[str, Any]) -> list[Any]:
    from globus_compute_common.messagepack import unpack
    from globus_compute_common.messagepack.message_types import Task

    try:
        task = unpack(body)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is no task)
        raise Refusal(
            "MalformedTask",
            "The endpoint could not read the task message. Submit it with a globus-compute-sdk"
            f" of a version that fits the endpoint's. ({type(error).__name__})",
        ) from None
    if not isinstance(task, Task) or str(task.task_id) != task_id:
        raise Refusal(
            "MalformedTask",
            f"The message for task {task_id} holds something else: submit the task again.",
        )
    serializer = _serializer(tuple(context.get("allowed_serializers") or ()))
    watch_codes()
    try:
        parts: list[Any] = serializer.unpack_and_deserialize(task.task_buffer)
    except OtherPython as error:
        raise Refusal("PythonMismatch", str(error)) from None
    return parts


@functools.lru_cache(maxsize=8)
def _serializer(allowed: tuple[str, ...]) -> Any:
    from globus_compute_sdk.serialize import ComputeSerializer

    return ComputeSerializer(allowed_deserializer_types=allowed or None)


def _serialize(value: Any, context: dict[str, Any]) -> str:
    strategies = context.get("result_serializers")
    serializer = _serializer(())
    try:
        if strategies:
            data = serializer.serialize_from_list(value, strategies)
        else:
            data = serializer.serialize(value)
    except Exception as error:
        raise Refusal(
            "ResultSerializationError",
            f"The function returned a {type(value).__name__}, which cannot be serialized. Return"
            " plain data (numbers, text, lists, dicts, arrays), or write it to a file and return"
            " the path.",
        ) from error
    if len(data) > RESULT_LIMIT:
        raise Refusal("MaxResultSizeExceeded", _too_large(len(data), RESULT_LIMIT))
    return str(data)


def _mark(line: str, context: dict[str, Any]) -> None:
    """Append to this process's file of start marks. No task fails for want of one."""
    directory = context.get("marks")
    if not directory:
        return
    try:
        # One file for all threads, or a mark and its withdrawal are in two.
        with _marks_lock:
            descriptor = _open_marks_file(directory, bool(context.get("marks_sync")), os.getpid())
        os.write(descriptor, line.encode())
    except OSError as error:
        context["unmarked"] = f"{directory}: {error.strerror}"


def _open_marks_file(directory: str, sync: bool, pid: int) -> int:
    with contextlib.suppress(OSError):
        descriptor, opened = _marks_file(directory, sync, pid)
        if os.path.samestat(os.fstat(descriptor), opened):
            return descriptor
    # A task may close all descriptors there are, and its own file may have this number.
    _marks_file.cache_clear()
    return _marks_file(directory, sync, pid)[0]


@functools.lru_cache(maxsize=4)
def _marks_file(directory: str, sync: bool, pid: int) -> tuple[int, os.stat_result]:
    name = f"{socket.gethostname()}-{pid}-{time.time_ns()}"
    if block := os.environ.get("PARSL_WORKER_BLOCK_ID"):
        name += f"@{block}"
    path = os.path.join(directory, name)  # noqa: PTH118  (needs no pathlib in a worker)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # From another node's cache it would not be seen before that process has ended. The directory
    # is the user's alone, but where a container's root writes into it, the file is root's.
    descriptor = os.open(path, flags | (os.O_DSYNC if sync else 0), 0o644)
    return descriptor, os.fstat(descriptor)


def _is_shell_function(function: Any) -> bool:
    from globus_compute_sdk.sdk.shell_function import ShellFunction

    return isinstance(function, ShellFunction)


def _has_run_out_of_time(function: Any, value: Any) -> bool:
    """Return whether a ShellFunction's walltime is over, whose command then goes on."""
    if not _is_shell_function(function):
        return False
    result = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return bool(result.get("exception_name") == "subprocess.TimeoutExpired")


@contextlib.contextmanager
def _surroundings(task_id: str, context: dict[str, Any]) -> Iterator[None]:
    """Give the task its variables and directory, and take them back."""
    try:
        before = os.getcwd()  # noqa: PTH109  (several times quicker than Path, and for each task)
    except FileNotFoundError:  # an earlier task has removed it
        before = str(context.get("directory") or os.sep)
    directory = str(context.get("directory") or before)
    os.environ["GC_TASK_UUID"] = task_id
    if context.get("sandbox"):
        directory = os.path.join(directory, task_id)  # noqa: PTH118  (as above)
        os.environ["GC_TASK_SANDBOX_DIR"] = directory
    try:
        os.chdir(directory)
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103  (as above)
        os.chdir(directory)
    try:
        yield
    finally:
        os.environ.pop("GC_TASK_UUID", None)
        os.environ.pop("GC_TASK_SANDBOX_DIR", None)
        with contextlib.suppress(OSError):  # the task may have removed its own ground
            os.chdir(before)


@contextlib.contextmanager
def _deadline(task_id: str) -> Iterator[None]:
    """Interrupt the task after GC_TASK_TIMEOUT seconds, as far as signals can."""
    seconds = _timeout()
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signal: int, _frame: Any) -> None:
        raise TaskTimeout(
            f"task {task_id} ran longer than the {seconds:g} s which this endpoint allows"
            " (GC_TASK_TIMEOUT)"
        )

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _timeout() -> float:
    text = os.environ.get("GC_TASK_TIMEOUT", "").strip()
    try:
        seconds = float(text or 0)
        return seconds if 0 < seconds < threading.TIMEOUT_MAX else 0.0  # no timer takes more
    except ValueError:
        raise Refusal(
            "BadTaskTimeout",
            f"GC_TASK_TIMEOUT in the worker's environment is {text!r}, which is no number of"
            " seconds: whoever configured this endpoint must mend it.",
        ) from None


def _transitions(context: dict[str, Any], started: int | None) -> list[Any]:
    from globus_compute_common.messagepack.message_types import TaskTransition
    from globus_compute_common.tasks import ActorName, TaskState

    made = []
    if received := context.get("received"):
        made.append((received, TaskState.WAITING_FOR_LAUNCH, ActorName.INTERCHANGE))
    if started is not None:
        made.append((started, TaskState.EXEC_START, ActorName.WORKER))
        made.append((time.time_ns(), TaskState.EXEC_END, ActorName.WORKER))
    return [TaskTransition(timestamp=at, state=state, actor=who) for at, state, who in made]


def _traceback(error: BaseException) -> str:
    """Return the traceback without the frames of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    if trace is None and not isinstance(error, TaskTimeout):
        trace = error.__traceback__
    lines = traceback.format_exception(type(error), error, trace)
    return "".join(lines)
