# SPDX-License-Identifier: Apache-2.0
"""A researcher with the stock SDK, as tests drive one: functions in, outcomes back."""

from __future__ import annotations

import copy
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from system.hosts import Host
from system.site import SDK_TRUST, Client

_DRIVER = """
import json, sys
from concurrent.futures import wait
from globus_compute_sdk import Executor

endpoint, patience = sys.argv[1], float(sys.argv[2])
config, calls = json.loads(sys.argv[3]), json.loads(sys.argv[4])
with Executor(endpoint_id=endpoint, user_endpoint_config=config, api_burst_limit=20,
              api_burst_window_s=1) as executor:
    futures = [executor.submit(globals()[name], *arguments) for name, arguments in calls]
    wait(futures, timeout=patience)
    for future in futures:
        try:
            print(json.dumps({"value": future.result(timeout=0)}))
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""

Call = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True)
class Outcome:
    """What the SDK's future ended with: a value, or the text of an error."""

    value: Any = None
    error: str | None = None


class Researcher:
    """Someone with a laptop: an SDK in a virtual environment, and a client identity."""

    def __init__(
        self,
        host: Host,
        name: str,
        client: Client,
        sdk: Path,
        endpoint_id: str,
        way: Mapping[str, str] = SDK_TRUST,
        patience: float = 100.0,
    ) -> None:
        """``way``: the variables by which the SDK finds the site's services.

        ``patience``: how long calls may take together, in seconds.
        """
        self.host = host
        self.name = name
        self.client = client
        self._way = way
        self._patience = patience
        self._sdk = sdk
        self._endpoint_id = endpoint_id

    def waiting(self, patience: float) -> Self:
        """The same researcher, whose calls may take that many seconds together."""
        other = copy.copy(self)
        other._patience = patience
        return other

    def command(self, *calls: Call, **config: Any) -> list[str | Path]:
        """A command line which submits `calls` at once and prints their outcomes."""
        sources = {inspect.getsource(function) for function, _ in calls}
        program = "\n\n".join(textwrap.dedent(source) for source in sources) + _DRIVER
        path = f"/opt/researchers/{self.name}.py"
        self.host.write(path, program)
        names = [(function.__name__, arguments) for function, arguments in calls]
        python = self._sdk / "bin/python"
        endpoint = (self._endpoint_id, str(self._patience))
        return [python, path, *endpoint, json.dumps(config), json.dumps(names)]

    @property
    def environment(self) -> dict[str, str]:
        """What tells the SDK who and where it is."""
        home = {"GLOBUS_COMPUTE_USER_DIR": f"/root/{self.name}"}
        return {**self.client.environment, **self._way, **home}

    def outcomes(self, *calls: Call, **config: Any) -> list[Outcome]:
        """Submit `calls` at once to the user endpoint of `config`, and wait for all."""
        command = self.command(*calls, **config)
        done = self.host.run(*command, environment=self.environment, timeout=self._patience + 20)
        return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]

    def call(self, function: Callable[..., Any], *arguments: Any, **config: Any) -> Any:
        """The value of one call; AssertionError where it failed."""
        (outcome,) = self.outcomes((function, arguments), **config)
        assert outcome.error is None, outcome.error
        return outcome.value

    def failure(self, function: Callable[..., Any], *arguments: Any, **config: Any) -> str:
        """The text of the error that one call ends with."""
        (outcome,) = self.outcomes((function, arguments), **config)
        assert outcome.error is not None, f"unexpectedly it went well: {outcome.value}"
        return outcome.error
