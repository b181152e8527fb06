"""Run a program as this one does its work: it gets the signals that are sent to this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM")
"""What somebody sends to a program that is to do something, mostly to end."""
FROM_TERMINALS = ("SIGINT", "SIGQUIT")
"""What a terminal sends to all processes in its foreground."""
IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")

RunProgram = Callable[[Sequence[str], Mapping[str, str]], int]


@contextmanager
def forwarding_signals() -> Iterator[RunProgram]:
    """Yield what runs a program and returns its exit code, 128 and the number for a signal.

    Signals to this process reach the program and do not end this process, from the beginning of
    the block: one that comes before the program runs is forwarded when it does. What is started
    in the block, threads included, does not see them. Calling it raises OSError if the program
    cannot be started.
    """
    if sys.platform == "win32":  # it has no local platform, for which this is
        raise NotImplementedError
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # there would be no exit code
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    numbers = {
        number for number in _numbers(FORWARDED) if signal.getsignal(number) is not signal.SIG_IGN
    }
    waited_for: set[int] = numbers | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)

    def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
        pid = os.posix_spawnp(
            command[0],
            [*command],
            environment,
            setsigmask=before,
            setsigdef=_numbers(IGNORED_BY_PYTHON),
        )
        waiter = threading.Thread(
            target=_report_end, args=(pid, threading.get_ident()), daemon=True
        )
        waiter.start()
        while (number := _next_signal(waited_for)) != signal.SIGCHLD or waiter.is_alive():
            if number in numbers:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            elif number == signal.SIGCHLD:
                waiter.join(0.01)  # of another child, or the waiter is about to end
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    try:
        yield run
    finally:
        # What came since the program has ended wanted it to end, and no more.
        while numbers & signal.sigpending():
            signal.sigwait(numbers)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _report_end(pid: int, thread: int) -> None:
    """Wait for the end of a program, and tell the thread that waits for signals.

    The program is not reaped here: until it is, its number is no other process's.
    """
    if sys.platform == "win32":
        raise NotImplementedError
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    signal.pthread_kill(thread, signal.SIGCHLD)


def _next_signal(numbers: set[int]) -> int:
    """Wait for a signal that the program has not got as well; return its number."""
    if sys.platform == "win32":
        raise NotImplementedError
    while True:
        if not hasattr(signal, "sigwaitinfo"):  # macOS
            number = signal.sigwait(numbers)
            if number not in _numbers(FROM_TERMINALS):
                return number
        else:
            found = signal.sigwaitinfo(numbers)
            # What comes from the kernel comes from the terminal, which sends it to both.
            if found.si_code <= 0 or found.si_signo == signal.SIGCHLD:
                return found.si_signo


def _numbers(names: Sequence[str]) -> list[signal.Signals]:
    return [signal.Signals[name] for name in names]
