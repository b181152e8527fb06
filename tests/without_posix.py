"""Python as it is on Windows: without the names and modules that it has on POSIX systems only.

Of a run of tests whose platform is in another process, see `tests/test_windows.py`. As a program it
is the ``neuro`` command.
"""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
from functools import partial
from types import ModuleType
from typing import ClassVar

# As the type stubs of the standard library have it; of rare constants not all.
OS = """
    O_ACCMODE O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW
    O_NONBLOCK O_PATH O_RSYNC O_SYNC O_TMPFILE P_ALL P_PGID P_PID P_PIDFD SEEK_DATA SEEK_HOLE
    WCOREDUMP WEXITED WEXITSTATUS WIFEXITED WIFSIGNALED WIFSTOPPED WNOHANG WNOWAIT WSTOPSIG WTERMSIG
    WUNTRACED EX_CANTCREAT EX_CONFIG EX_IOERR EX_NOINPUT EX_NOPERM EX_SOFTWARE EX_TEMPFAIL
    EX_UNAVAILABLE EX_USAGE chown chroot confstr copy_file_range ctermid environb eventfd fchdir
    fchmod fchown fdatasync fork forkpty fpathconf fstatvfs fwalk get_blocking getegid getenvb
    geteuid getgid getgrouplist getgroups getloadavg getpgid getpgrp getpriority getrandom getresgid
    getresuid getsid getuid getxattr initgroups killpg lchmod lchown listxattr lockf major
    makedev memfd_create minor mkfifo mknod nice openpty pathconf pidfd_open pipe2 posix_fadvise
    posix_fallocate posix_spawn posix_spawnp pread preadv pwrite pwritev readv register_at_fork
    removexattr sched_getaffinity sched_setaffinity sched_yield sendfile set_blocking setegid
    seteuid setgid setgroups setpgid setpgrp setpriority setregid setresgid setresuid setreuid
    setsid setuid setxattr spawnlp spawnlpe spawnvp spawnvpe splice statvfs sync sysconf
    tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid writev
"""
SIGNAL = """
    ITIMER_PROF ITIMER_REAL ITIMER_VIRTUAL SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGHUP SIGIO SIGIOT
    SIGKILL SIGPIPE SIGPOLL SIGPROF SIGPWR SIGQUIT SIGRTMAX SIGRTMIN SIGSTOP SIGSYS SIGTRAP SIGTSTP
    SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ SIG_BLOCK SIG_SETMASK
    SIG_UNBLOCK alarm getitimer pause pidfd_send_signal pthread_kill pthread_sigmask setitimer
    siginterrupt sigpending sigtimedwait sigwait sigwaitinfo
"""
SOCKET = """
    AF_NETLINK AF_PACKET AF_UNIX AF_VSOCK CMSG_LEN CMSG_SPACE MSG_CMSG_CLOEXEC MSG_CONFIRM
    MSG_DONTWAIT MSG_EOR MSG_MORE MSG_NOSIGNAL SCM_CREDENTIALS SCM_RIGHTS SOCK_CLOEXEC SOCK_NONBLOCK
    SO_BINDTODEVICE SO_PASSCRED SO_PEERCRED SO_REUSEPORT TCP_CONGESTION TCP_CORK TCP_INFO
    TCP_QUICKACK TCP_USER_TIMEOUT recv_fds send_fds sethostname
"""
SELECT = "POLLERR POLLHUP POLLIN POLLNVAL POLLOUT POLLPRI PIPE_BUF epoll poll"
NAMES: dict[ModuleType, frozenset[str]] = {
    os: frozenset(OS.split()),
    signal: frozenset(SIGNAL.split()),
    socket: frozenset(SOCKET.split()),
    select: frozenset(SELECT.split()),
    selectors: frozenset({"EpollSelector", "PollSelector"}),
}
MODULES = frozenset(
    {"crypt", "curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "spwd"}
    | {"syslog", "termios", "tty"}
)
ARGUMENTS = frozenset(
    {"dir_fd", "src_dir_fd", "dst_dir_fd", "pass_fds", "preexec_fn", "start_new_session"}
)
"""Of functions that Windows has, and which raise there when they are given these."""


class FakeMsvcrt(ModuleType):
    """The locks of Windows: of bytes, from a file's position on, by file and not by process."""

    LK_UNLCK, LK_NBLCK = 0, 2
    _flock = staticmethod(fcntl.flock)
    _how: ClassVar = {LK_UNLCK: fcntl.LOCK_UN, LK_NBLCK: fcntl.LOCK_EX | fcntl.LOCK_NB}

    def locking(self, descriptor: int, how: int, count: int) -> None:
        assert (os.lseek(descriptor, 0, os.SEEK_CUR), count) == (0, 1)
        try:
            self._flock(descriptor, self._how[how])
        except BlockingIOError as error:
            raise PermissionError(error.errno, "Permission denied") from None


def remove() -> None:
    """Take the names and modules from this process, for good.

    What tests start programs with keeps its own; and the libraries are loaded by then.
    """
    for module in (os, signal):
        vars(subprocess)[module.__name__] = _copy(module)
    # On Windows the standard library makes a pair out of two connections.
    socket.socketpair = partial(socket.socketpair, socket.AF_UNIX)
    for module, names in NAMES.items():
        for name in names & vars(module).keys():
            delattr(module, name)
    vars(selectors)["DefaultSelector"] = selectors.SelectSelector
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # then importing it raises
    sys.modules["msvcrt"] = FakeMsvcrt("msvcrt")


def _copy(module: ModuleType) -> ModuleType:
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    return copy


if __name__ == "__main__":
    import neuro_sync.cli.main
    import neuro_sync.client.terminal
    import neuro_sync.transport.websocket  # noqa: F401
    from neuro_sync.__main__ import main

    remove()
    main()
