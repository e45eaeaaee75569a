"""A process as it is where Linux's own calls are missing, on macOS say.

Python imports this at its start where this folder is in PYTHONPATH, in every child process too. It
stands in for macOS no further than that: torch, the C library and the file system are Linux's.
"""

import ctypes
import errno
import importlib
import os
import sys

GONE = {
    "os": """
        O_DIRECT O_LARGEFILE O_NOATIME O_PATH O_TMPFILE copy_file_range eventfd fdatasync getrandom
        getresgid getresuid getxattr listxattr memfd_create pidfd_open pipe2 posix_fadvise
        posix_fallocate removexattr sched_getaffinity sched_getparam sched_getscheduler
        sched_rr_get_interval sched_setaffinity sched_setparam sched_setscheduler setns setresgid
        setresuid setxattr splice unshare
    """,
    "select": "epoll",
    "signal": "SIGPWR SIGRTMAX SIGRTMIN pidfd_send_signal sigtimedwait sigwaitinfo",
    "resource": "prlimit",
}
IN_C = ("gettid", "inotify_init1", "mallopt", "malloc_trim", "prctl", "renameat2")
FOLDERS = ("/dev/shm", "/proc", "/sys")

_symbol = ctypes.CDLL.__getattr__


def _symbol_there(library: ctypes.CDLL, name: str) -> object:
    if name in IN_C:
        raise AttributeError(name)
    return _symbol(library, name)


def _hide_folders(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ("open", "os.listdir", "os.scandir"):
        return
    path = arguments[0]
    if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(FOLDERS):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))


for module, names in GONE.items():
    for name in names.split():
        if hasattr(importlib.import_module(module), name):  # not of a later Python only
            delattr(importlib.import_module(module), name)
ctypes.CDLL.__getattr__ = _symbol_there  # type: ignore[method-assign]
sys.addaudithook(_hide_folders)
# Its modules see what is missing when they are imported.
importlib.import_module("multiprocessing").set_start_method("spawn")
