# SPDX-License-Identifier: Apache-2.0
"""Batch jobs which nobody forgets: none runs before its id is noted, and each is cancelled."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import GridEngineProvider, LocalProvider, LSFProvider, TorqueProvider
from parsl.providers.cluster_provider import ClusterProvider

from globus_compute_endpoint.engines.base import JobLog

__all__ = ["JobGate", "cancel_jobs", "correct_cancelling", "is_away", "runs_batch_jobs"]

log = logging.getLogger(__name__)

_PATIENCE = 20  # seconds which a job waits for its gate, from its own start
# A file which changes, and not one which appears: of network file systems it is only the former
# that another node is sure to see at once, when it opens the file.
_WAIT = """\
globus_compute_waited=0
until [ "$(cat {gate} 2>/dev/null)" = open ]; do
  if [ "$globus_compute_waited" -ge {patience} ]; then
    echo "The Globus Compute endpoint which submitted this job did not live to note its number;" \\
      "nobody would ever cancel it, so it ends." >&2
    exit 1
  fi
  globus_compute_waited=$((globus_compute_waited + 1))
  sleep 1
done
"""
_SILENT_ABOUT_OUTPUT = (GridEngineProvider, LSFProvider, TorqueProvider)
_CANCELS = re.compile(r"(scancel|qdel|bkill|condor_rm)\b")
# How schedulers say that there is nothing left to cancel.
_GONE = re.compile(
    r"invalid job id|unknown job|already complet|has (already )?(finished|completed)"
    r"|no matching job|does not exist|not found|couldn't find"
    r"|has deleted job|has registered the job",
    re.IGNORECASE,
)
# How they say, or Parsl says of them, that they cannot be reached now.
_AWAY = re.compile(
    r"unable to contact|cannot (connect|contact)|connection (refused|timed out|failure)"
    r"|communication (error|failure)|socket timed out|timed out after|not responding",
    re.IGNORECASE,
)


def is_away(message: str | None) -> bool:
    """Return whether a block has failed only because the scheduler could not be reached."""
    return bool(message and _AWAY.search(message))


def runs_batch_jobs(provider: Any) -> bool:
    """Return whether a provider's blocks outlive this machine's processes."""
    return not isinstance(provider, LocalProvider)


class JobGate:
    """Stands before a provider: a job of a batch scheduler waits until its id is noted.

    One that is not noted in time ends by itself. Clouds and Kubernetes share no file system with
    us: there the id is noted as soon as it is known.
    """

    def __init__(self, provider: Any, jobs: JobLog, directory: Path, name: str) -> None:
        self._provider = provider
        self._submit = provider.submit
        self._jobs = jobs
        self._directory = directory
        self._name = name
        self._noted: set[str] = set()
        provider.submit = self.submit

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> Any:
        """Submit a job, and let it run once it is noted. As the provider's own ``submit``.

        Raises:
            OSError: it cannot be noted; it is cancelled.
        """
        gate = self._directory / f"{uuid4().hex}.gate"
        gate.touch(mode=0o600)
        name = f"{self._name}.{job_name.rpartition('.')[2]}"
        job_id = self._submit_waiting(gate, command, tasks_per_node, name)
        if job_id is None:
            return None
        try:
            self._jobs.note(str(job_id))
        except OSError:
            log.exception("Batch job %s cannot be noted, and is cancelled", job_id)
            self._provider.cancel([job_id])
            raise
        self._noted.add(str(job_id))
        self._note_output(job_id, name)
        gate.write_text("open\n")
        return job_id

    def ended(self, job_ids: Sequence[Any]) -> None:
        """Forget jobs which have ended, if they are not forgotten yet."""
        for each in map(str, job_ids):
            if each in self._noted:
                self._noted.discard(each)
                self._jobs.forget(each)

    def _note_output(self, job_id: Any, name: str) -> None:
        """Note where a job's output will be, as other providers do by themselves."""
        script = next(self._directory.glob(f"{name}.*.submit"), None)
        if script is not None and isinstance(self._provider, _SILENT_ABOUT_OUTPUT):
            known = self._provider.resources[job_id]
            for stream in ("stdout", "stderr"):
                known[f"job_{stream}_path"] = f"{script}.{stream}"

    def _submit_waiting(self, gate: Path, command: str, tasks_per_node: int, name: str) -> Any:
        if not isinstance(self._provider, ClusterProvider):
            return self._submit(command, tasks_per_node, name)
        provider: Any = self._provider
        # In the script itself: a launcher may run the command in a container.
        given = provider.worker_init
        wait = _WAIT.format(gate=shlex.quote(str(gate)), patience=_PATIENCE)
        provider.worker_init = wait + given
        try:
            return self._submit(command, tasks_per_node, name)
        finally:
            provider.worker_init = given


def cancel_jobs(
    provider: Any, job_ids: Sequence[str], gone: Callable[[str], None]
) -> tuple[str, ...]:
    """Cancel jobs of an earlier life, and tell which are ``gone``; return those which are left.

    ``provider`` is used for nothing else. It gives a scheduler ``cmd_timeout`` seconds, and one
    which does not answer is not asked again.
    """
    left: list[str] = []
    for at, job_id in enumerate(job_ids):
        try:
            ended = _cancel(provider, job_id)
        except Exception as error:  # noqa: BLE001  (each provider has its own; it is told)
            log.warning("The scheduler of batch job %s does not answer: %s", job_id, error)
            return (*left, *job_ids[at:])
        if ended:
            gone(job_id)
        else:
            left.append(job_id)
    return tuple(left)


def _cancel(provider: Any, job_id: str) -> bool:
    provider.resources[job_id] = {
        "job_id": job_id,
        "status": JobStatus(JobState.PENDING),
        "job_stdout_path": None,
        "job_stderr_path": None,
    }
    ended = all(provider.cancel([job_id]))
    if ended:
        log.info("Batch job %s of an earlier life is cancelled, if it had not ended", job_id)
    return ended


def correct_cancelling(provider: Any) -> None:
    """Have a provider believe what a scheduler's command says, and not its exit status alone.

    Some say 0 where they have not reached the scheduler, others fail for a job which has ended.
    """
    if not isinstance(provider, ClusterProvider):
        return
    corrected: Any = provider
    execute = corrected.execute_wait

    def execute_wait(command: str, timeout: float | None = None) -> tuple[int, str, str]:
        status, out, err = execute(command, timeout)
        if _CANCELS.match(command):
            # Grid Engine's qdel complains on standard output, where others say what they have done.
            said = err.splitlines() + (out.splitlines() if status else [])
            complaints = [line for line in said if line.strip()]
            not_gone = [line for line in complaints if not _GONE.search(line)]
            if not_gone:
                log.warning("%s: %s", command, " ".join(not_gone))
            if complaints and not not_gone:
                status = 0
            elif any("error" in line.lower() for line in not_gone):
                status = status or 1
        return status, out, err

    corrected.execute_wait = execute_wait
