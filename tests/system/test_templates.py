# SPDX-License-Identifier: Apache-2.0
"""What the administrator of a system endpoint may write into templates and environment."""

import contextlib
import json

from system.site import ENDPOINT_CA

_PROGRAM = "/opt/site/bin/globus-compute-endpoint"
_NOTES = "/var/tmp/site-installation"
_INSTALLATION = f"""\
#!/bin/sh
# a site's own installation: notes as whom it runs, and goes on as the packaged one
echo "$(id -un) $*" >> {_NOTES}
exec /usr/bin/globus-compute-endpoint "$@"
"""
_CA = "/etc/ssl/site-ca.pem"  # readable by users, as the endpoint's own copy is not


def where():
    import getpass
    import os
    from pathlib import Path

    unit = Path("/proc/self/cgroup").read_text()
    return getpass.getuser(), os.environ["SITE"], "globus-compute-uep-" in unit


@contextlib.contextmanager
def files(warm, **contents):
    """Other files in the endpoint's directory, for as long as the context lasts."""
    directory = f"/etc/globus-compute-endpoint/{warm.name}"
    paths = {name: f"{directory}/{name.replace('__', '.')}" for name in contents}
    before = {name: warm.host.read(path) for name, path in paths.items() if "part" not in name}
    try:
        for name, path in paths.items():
            warm.host.write(path, contents[name])
        warm.host.run("systemctl", "restart", warm.unit)
        yield
    finally:
        for name, path in paths.items():
            if name in before:
                warm.host.write(path, before[name])
            else:
                warm.host.run("rm", path)
        warm.host.run("systemctl", "restart", warm.unit)


def test_templates_include_others_and_a_site_has_its_own_installation(warm):
    warm.host.write(_PROGRAM, _INSTALLATION, mode=0o755)
    warm.host.write(_CA, warm.host.read(ENDPOINT_CA))
    environment = {"PATH": "/opt/site/bin:/usr/bin:/bin", "SITE": "hpc", "SSL_CERT_FILE": _CA}
    with files(
        warm,
        part__j2="engine: {type: ThreadPoolEngine}\n",
        user_config_template__yaml__j2='{% include "part.j2" %}display_name: {{ TITLE }}\n',
        user_config_schema__json="{}",
        user_environment__yaml=json.dumps(environment),
    ):
        told = warm.researcher("alice").call(where, TITLE="a: b")
    assert told == ["alice", "hpc", True]
    user, command, name = warm.host.read(_NOTES).split()
    assert (user, command) == ("alice", "_start-user-endpoint")
    assert name.startswith(f"uep.{warm.endpoint_id}.")
