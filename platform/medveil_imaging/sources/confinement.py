"""What a reader's process gives up before it opens the first file: whatever a decoder has no need for.

A decoder that is taken over by a file may compute and answer, and little else: no connection, no other
program, no process, no file written, moved or removed, no signal to others. On Linux a filter of system calls
sees to that (seccomp, x86-64 and ARM64); limits of memory and time hold wherever the system knows them.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22
FILTER_MODE = 2
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026
"""Let it pass; fail with EPERM; fail with ENOSYS, whereupon the C library takes the older way."""
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Where a filter finds the call's number, its machine, and its first argument."""
SAME_PROCESS = 0x10000
"""CLONE_THREAD: a thread, no process."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
OPEN_FILES = 64

Numbers = tuple[int, int | None]
"""Of a call on x86-64, and on ARM64 where it has it."""
REFUSED: dict[str, Numbers] = {
    # no connection
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # no program, no process
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    # nothing to others
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    # no file made, moved, removed or changed
    "creat": (85, None),
    "truncate": (76, 45),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # no way around
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
}
"""What no decoder has to do: connections, programs, processes, files' names and modes, and ways around it."""
HIDDEN: tuple[Numbers, ...] = ((435, 435), (437, 437))
"""clone3 and openat2: their arguments lie where no filter sees them."""
OTHER_NUMBERS = 0x40000000
"""From here on x86-64 has its calls once more, for programs of 32 bits."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the numbers, and how the kernel calls the machine."""


def confine(memory_bytes: int) -> None:
    """Give up, for good, what reading needs not; this process ends with its parent.

    Args:
        memory_bytes: address space beyond what the process has now.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, OPEN_FILES)]
    limits += [(resource.RLIMIT_AS, _address_space() + memory_bytes)]
    for which, limit in limits:
        with suppress(ValueError, OSError):  # a system may know a lower one already
            resource.setrlimit(which, (limit, limit))
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(PR_SET_DUMPABLE, 0)  # no picture in a core file, whatever core_pattern says
        _filter_calls()


def allow_cpu(seconds: int) -> None:
    """From now on: the kernel ends this process after so many more seconds of computing."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _address_space() -> int:
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 2**30


def _prctl(*arguments: int) -> int:
    wide = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]]
    return int(ctypes.CDLL(None, use_errno=True).prctl(*wide))


def _filter_calls() -> None:
    known = MACHINES.get(platform.machine())
    if known is None or struct.calcsize("P") != 8:
        return
    program = b"".join(struct.pack("HBBI", *step) for step in _program(*known, own=os.getpid()))
    steps = ctypes.create_string_buffer(program, len(program))
    whole = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(steps)))
    if _prctl(PR_SET_NO_NEW_PRIVS, 1) == 0:
        _prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.addressof(whole))


def _program(column: int, machine: int, *, own: int) -> list[tuple[int, int, int, int]]:
    """Steps of a classic BPF program: code, steps to skip if so, steps to skip if not, operand."""
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, REFUSE)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, OTHER_NUMBERS), (RETURN, 0, 0, REFUSE)]
    for numbers, answer in [*((n, REFUSE) for n in REFUSED.values()), *((n, UNKNOWN) for n in HIDDEN)]:
        number = numbers[column]
        if number is not None:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, answer)]
    looks: list[tuple[Numbers, int, int, int, int, int]] = [
        ((2, None), 1, ANY_BIT, WRITING, REFUSE, ALLOW),  # open
        ((257, 56), 2, ANY_BIT, WRITING, REFUSE, ALLOW),  # openat
        ((56, 220), 0, ANY_BIT, SAME_PROCESS, ALLOW, REFUSE),  # clone
        ((234, 131), 0, EQUAL, own, ALLOW, REFUSE),  # tgkill, by which abort() ends its own process
        ((302, 261), 0, EQUAL, 0, ALLOW, REFUSE),  # prlimit64
    ]
    for numbers, argument, compare, operand, if_so, if_not in looks:
        number = numbers[column]
        if number is not None:
            low = ARGUMENTS + 8 * argument  # the low half: both machines put it first
            steps += [(EQUAL, 0, 4, number), (LOAD, 0, 0, low), (compare, 0, 1, operand)]
            steps += [(RETURN, 0, 0, if_so), (RETURN, 0, 0, if_not)]
    return [*steps, (RETURN, 0, 0, ALLOW)]
