# SPDX-License-Identifier: Apache-2.0
"""What a researcher's program does with the stock SDK. Runs in an environment with nothing else.

    researcher.py DEED ENDPOINT-ID [JSON]

It prints one JSON document a line. GLOBUS_COMPUTE_* in the environment say who it is.
"""

import functools
import json
import os
import sys
import time
from concurrent.futures import wait

from globus_compute_sdk import Client, Executor, ShellFunction

PATIENCE = 120  # seconds
SOURCE = """
def area(width, height):
    return width * height
"""


def stay(started, release):
    """Tell the host which process this is, and stay until it has looked."""
    import os

    with open(started, "w") as pipe:
        pipe.write(str(os.getpid()))
    with open(release) as pipe:
        pipe.read()
    return os.getpid(), os.getuid()


def add(first, second):
    return first + second


def fail():
    raise ValueError("a mistake of the researcher's own")


def executor(endpoint, engine):
    # The SDK slows itself down after a few requests; these are few on purpose.
    return Executor(
        endpoint_id=endpoint,
        user_endpoint_config={"engine": engine},
        api_burst_limit=20,
        api_burst_window_s=1,
    )


def say(**document):
    print(json.dumps(document), flush=True)


def tell_failure(engine, future):
    """The machine on which the function was to run waits for it in vain: say why, at once."""
    if error := future.exception():
        print(f"the function for {engine} did not run: {error}", file=sys.stderr, flush=True)


def matrix(endpoint, cells):
    """Submit one function an engine; all run at the same time, until the host releases them."""
    executors, futures = [], {}
    for cell in cells:
        executors.append(executor(endpoint, cell["engine"]))
        future = executors[-1].submit(stay, cell["started"], cell["release"])
        future.add_done_callback(functools.partial(tell_failure, cell["engine"]))
        futures[cell["engine"]] = future
        say(engine=cell["engine"], submitted=time.time())
    wait(futures.values(), timeout=2 * PATIENCE)
    for engine, future in futures.items():
        pid, uid = future.result(timeout=0)
        say(engine=engine, task_id=future.task_id, pid=pid, uid=uid, done=time.time())
    for each in executors:
        each.shutdown()


def finished(client, task_id):
    """The result of a task submitted with Client, which has no futures."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = client.get_batch_result([task_id])[task_id]
        if not state["pending"]:
            return client.get_result(task_id)
        time.sleep(0.5)
    raise TimeoutError(f"{task_id} is still pending")


def run_with_client(endpoint, _arguments):
    client = Client()
    task_id = client.run(2, 3, endpoint_id=endpoint, function_id=client.register_function(add))
    say(result=finished(client, task_id), task_id=task_id)


def run_source_code(endpoint, _arguments):
    client = Client()
    function_id = client.register_source_code(source=SOURCE, function_name="area")
    task_id = client.run(6, 7, endpoint_id=endpoint, function_id=function_id)
    say(result=finished(client, task_id), task_id=task_id)


def leave(endpoint, arguments):
    """Submit and go away without waiting: another process takes the results."""
    executor_ = executor(endpoint, arguments["engine"])
    future = executor_.submit(add, "from an ", "earlier process")
    deadline = time.monotonic() + PATIENCE
    while future.task_id is None and time.monotonic() < deadline:
        time.sleep(0.1)
    say(task_group_id=str(executor_.task_group_id), task_id=future.task_id, pid=os.getpid())
    sys.stdout.flush()
    os._exit(0)


def reload(endpoint, arguments):
    with Executor(endpoint_id=endpoint, task_group_id=arguments["task_group_id"]) as executor_:
        (future,) = executor_.reload_tasks()
        say(result=future.result(timeout=PATIENCE), task_id=future.task_id, pid=os.getpid())


def run_shell(endpoint, arguments):
    with executor(endpoint, arguments["engine"]) as executor_:
        future = executor_.submit(ShellFunction("echo {greeting} from $(id -un)"), greeting="hello")
        result = future.result(timeout=PATIENCE)
        say(result=result.stdout.strip(), status=result.returncode, task_id=future.task_id)


def report_hardware(endpoint, _arguments):
    client = Client()
    task_id = client.get_worker_hardware_details(endpoint)
    say(result=finished(client, task_id), task_id=task_id)


def run_failing(endpoint, arguments):
    with executor(endpoint, arguments["engine"]) as executor_:
        future = executor_.submit(fail)
        error = future.exception(timeout=PATIENCE)
        last_line = str(error).strip().splitlines()[-1].strip()
        say(result=f"{type(error).__name__}: … {last_line}", task_id=future.task_id)


DEEDS = {
    deed.__name__: deed
    for deed in (
        *(matrix, run_with_client, run_source_code, leave, reload),
        *(run_shell, report_hardware, run_failing),
    )
}

if __name__ == "__main__":
    given = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    DEEDS[sys.argv[1]](sys.argv[2], given)
