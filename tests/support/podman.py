# SPDX-License-Identifier: Apache-2.0
"""Rootless podman for a user of a test host, and an image with a worker environment.

The image is made of the host's own Python, and of Parsl, the SDK and what they require, as they are
in the environment which runs the tests. It needs root, and Debian's podman, uidmap and slirp4netns.
"""

from __future__ import annotations

import compileall
import io
import os
import pwd
import re
import shutil
import stat
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

USER = "alice"
IMAGE = "localhost/worker:1"
ADDRESS = "192.0.2.1"  # for documentation: a host of its own has no other than loopback

_PYTHON = "/usr/bin/python3.11"
_PROGRAMS = (_PYTHON, "/usr/bin/bash", "/usr/bin/env")
_STDLIB = Path("/usr/lib/python3.11")
_TARGET = "usr/local/lib/python3.11/dist-packages"
_UNUSED = re.compile(r"/(test|idlelib|ensurepip|config-3[^/]*)(/|$)")
_LIBRARY = re.compile(r"(/\S+) \(0x")
# A test host has cgroups in a layout which crun refuses, and no right to raise limits.
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile={limit}:{limit}", "nproc={limit}:{limit}"]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
_STORAGE = '[storage]\ndriver = "overlay"\n'
_LIMIT = 4096  # below whatever the host has


def set_up() -> None:
    """Make the user and the image, where they are not there, and what the host lacks for both."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        _run("useradd", "--create-home", "--shell", "/bin/bash", USER)
    _run("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")
    _run("loginctl", "enable-linger", USER)
    _prepare_kernel_interfaces()
    _prepare_storage()
    if podman("image", "exists", IMAGE, check=False).returncode:
        change = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
        podman("import", "--change", change, "-", IMAGE, stdin=_root_file_system())


def _prepare_kernel_interfaces() -> None:
    tun = Path("/dev/net/tun")
    if not tun.exists():
        tun.parent.mkdir(exist_ok=True)
        os.mknod(tun, stat.S_IFCHR | 0o666, os.makedev(10, 200))
        tun.chmod(0o666)
    # Parts of the host's /proc are covered. A user may mount one where a whole one is to be seen.
    whole = Path("/run/whole/proc")
    if not whole.exists():
        whole.parent.mkdir(mode=0o700)
        whole.mkdir()
        _run("mount", "-t", "proc", "proc", str(whole))


def _prepare_storage() -> None:
    owner = f"{USER}:{USER}"
    settings = home() / ".config/containers"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "containers.conf").write_text(_CONTAINERS.format(limit=_LIMIT))
    (settings / "storage.conf").write_text(_STORAGE)
    storage = home() / ".local/share/containers"
    storage.mkdir(parents=True, exist_ok=True)
    if not storage.is_mount():  # the host's disk is an overlay, which cannot carry another
        _run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(storage))
    _run("chown", owner, str(storage))
    _run("chown", "--recursive", owner, str(settings.parent), str(home() / ".local"))


def home() -> Path:
    """Return the user's home directory."""
    return Path(pwd.getpwnam(USER).pw_dir)


def environment() -> dict[str, str]:
    """Return what a login gives the user for podman."""
    return {
        "HOME": str(home()),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "XDG_RUNTIME_DIR": f"/run/user/{pwd.getpwnam(USER).pw_uid}",
    }


def podman(
    *words: str, check: bool = True, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run podman as the user."""
    return subprocess.run(
        ["podman", *words],
        input=stdin,
        capture_output=True,
        check=check,
        timeout=120,
        cwd=home(),
        env=environment(),
        user=USER,
        group=USER,
        extra_groups=[],
    )


def containers() -> list[str]:
    """Return the ids of the user's containers, in whatever state."""
    return podman("ps", "--all", "--quiet", "--no-trunc").stdout.decode().split()


def _root_file_system() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("proc", "sys", "dev", "run", "etc", "usr/lib64", "root"):
            tar.addfile(_directory(name))
        tmp = _directory("tmp")
        tmp.mode = 0o1777
        tar.addfile(tmp)
        for link, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            tar.addfile(_link(link, target))
        for link, target in (("sh", "bash"), ("python3", Path(_PYTHON).name)):
            tar.addfile(_link(f"usr/bin/{link}", target))
        tar.add(_STDLIB, str(_STDLIB).lstrip("/"), filter=_wanted)
        with TemporaryDirectory() as stage:
            for inside, path in _packages():
                (Path(stage) / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, Path(stage) / inside)
            compileall.compile_dir(stage, quiet=2, workers=os.cpu_count() or 1, stripdir=stage)
            tar.add(stage, _TARGET)
        for path in _libraries():
            tar.add(path.resolve(), str(path).lstrip("/"))
        for program in _PROGRAMS:
            tar.add(program)
        _add_pool(tar)
    return made.getvalue()


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _UNUSED.search(info.name) else info


def _packages() -> Iterator[tuple[str, Path]]:
    """Return what is to be in the image: the place among its packages, and the file."""
    for package in _required({}, "parsl", "globus-compute-sdk").values():
        if package.files is None:  # a Debian package does not say which file is whose
            yield from _all_packages(Path(sysconfig.get_paths()["platlib"]))
            return
        for file in package.files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                yield str(file), Path(str(file.locate()))


def _all_packages(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in directory.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield str(path.relative_to(directory)), path


def _required(found: dict[str, Distribution], *names: str) -> dict[str, Distribution]:
    for name in names:
        key = name.lower().replace("_", "-")
        try:
            package = distribution(key)
        except PackageNotFoundError:
            continue  # for another platform
        if key not in found:
            found[key] = package
            needs = [each for each in package.requires or () if "extra ==" not in each]
            _required(found, *(re.split(r"[^\w.-]", each)[0] for each in needs))
    return found


def _libraries() -> set[Path]:
    """Return the shared libraries of the system which programs and packages are linked to."""
    packages = [path for _, path in _packages() if ".so" in path.name]
    linked = [*map(Path, _PROGRAMS), *_STDLIB.rglob("*.so"), *packages]
    told = _run("ldd", *map(str, linked), check=False)
    own = sysconfig.get_paths()["platlib"]
    found = {Path(each) for each in _LIBRARY.findall(told)}
    return {each for each in found if not str(each).startswith(own)}


def _add_pool(tar: tarfile.TarFile) -> None:
    pool = Path(sysconfig.get_paths()["scripts"]) / "process_worker_pool.py"
    _, _, body = pool.read_bytes().partition(b"\n")
    text = b"#!/usr/bin/python3\n" + body
    info = tarfile.TarInfo("usr/local/bin/process_worker_pool.py")
    info.mode, info.size = 0o755, len(text)
    tar.addfile(info, io.BytesIO(text))


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def _link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    set_up()
