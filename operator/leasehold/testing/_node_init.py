"""The first process within the namespaces of a real node: sets them up, then only waits. Linux only.

Usage, as a script, by `_node_keeper.py`: `python -I -S _node_init.py DIRECTORY`. It prints "ready" when
containerd and a kubelet can be started within. Nothing that is done here is seen outside.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

API_ADDRESS = "10.96.0.1"  # what the Service `kubernetes` gets: the first of --service-cluster-ip-range
NODE_ADDRESS = "10.88.0.1"
BRIDGE = "lh0"

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_MOVE, MS_REC = 2, 4, 8, 4096, 8192, 16384

# Fixed paths that containerd, its shims, the network plugins and the kubelet write to, by parent directory.
PRIVATE = {
    "/run": ("containerd", "netns"),
    "/var/lib": ("cni", "kubelet"),
    "/var/log": ("containers", "pods"),
}

# Settings of the whole machine that a kubelet changes where they are different. It finds these files instead.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

# A pod reaches the API server at its Service's address because that is an address of the node: no rule of a
# packet filter is needed. Other Services have no address here, for no kube-proxy runs.
NETWORK = f"""
link set lo up
addr add {API_ADDRESS}/32 dev lo
link add {BRIDGE} type bridge
addr add {NODE_ADDRESS}/16 dev {BRIDGE}
link set {BRIDGE} up
"""

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system, or move or repeat a mount; the flags are those of the system call. Raises OSError."""
    names = (str(source).encode(), str(target).encode(), kind.encode())
    if _libc.mount(*names, ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount {kind} {source} on {target}")


def hide(parent: Path, names: tuple[str, ...], stage: Path) -> None:
    """Give these names in a directory empty directories of our own, and leave the rest as it is."""
    mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for entry in os.scandir(parent):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if entry.name not in names:
                _repeat(entry, stage / entry.name)
    for name in names:
        (stage / name).mkdir()
    mount(stage, parent, flags=MS_MOVE)


def _repeat(entry: "os.DirEntry[str]", target: Path) -> None:
    if entry.is_symlink():
        target.symlink_to(os.readlink(entry.path))
        return
    if entry.is_dir():
        target.mkdir()
    else:
        target.touch()
    mount(entry.path, target, flags=MS_BIND | MS_REC)


def pin_kernel_settings(directory: Path) -> None:
    """Put a file with the value that a kubelet wants over each setting that it would change."""
    directory.mkdir()
    for setting, value in KERNEL_SETTINGS.items():
        place = Path("/proc/sys", setting)
        if place.exists():
            instead = directory / setting.replace("/", ".")
            instead.write_text(f"{value}\n")
            mount(instead, place, flags=MS_BIND)


def set_up(directory: Path) -> None:
    """Set up mounts and network. Raises OSError and CalledProcessError."""
    stage = directory / "stage"
    stage.mkdir()
    for parent, names in PRIVATE.items():
        hide(Path(parent).resolve(), names, stage)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    pin_kernel_settings(directory / "kernel")
    subprocess.run(["ip", "-batch", "-"], input=NETWORK, text=True, check=True)


def main() -> None:
    """Set up, say so, and take the last breath of every orphan within."""
    directory = Path(sys.argv[1])
    set_up(directory)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print("ready", flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main()
