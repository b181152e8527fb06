"""The namespaces that a job's processes are in, and how its folders and files are mounted there.

Only the supervisor loads it; like that it needs nothing but the standard library.

Bubblewrap makes a user, a mount and a pid namespace, with what every job sees of the machine and,
for a moment, the state folder at `STAGE`. What is the job's own is mounted after that, and before
one of the job's processes is inside. Other jobs may rename and replace what is in a volume at any
moment, so no path is resolved twice: each is walked a name at a time from one open folder to the
next, and what is found is mounted by its descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat

PATH = os.fsencode(os.defpath)
"""Where bubblewrap finds ``cat``."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE = 65536
STAGE = "/.neuro-sync"
"""Where the state folder is while a box is being made."""
MOST_LINKS = 40
"""Symbolic links in a path before it is taken for a circle; the kernel's own number."""
MOST_ENTRIES = 2000
"""Entries of a read-only folder to which a mount point can be added."""

OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else 0
FOLDER = OPEN | os.O_DIRECTORY

# Numbers of system calls that Python does not offer; these are the same on every processor.
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_MOUNT_SETATTR = 442

NS_GET_USERNS = 0xB701
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_BY_DESCRIPTORS = 0x44
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MNT_DETACH = 2

libc = ctypes.CDLL(None, use_errno=True)


class MountRefused(OSError):
    """A job's folder or file cannot be mounted; trying again does not help."""


class Mount:
    """What is mounted in a box: a folder or a file of the state folder."""

    def __init__(self, mode: bytes, source: bytes, target: bytes) -> None:
        self.is_read_only = mode == b"ro"
        self.source = parts_of(os.fsdecode(source))
        self.target = os.path.normpath(os.fsdecode(target))


class Box:
    """Namespaces of a job's own.

    Bubblewrap stays as their first process, which reaps orphans; the second one, a ``cat``, tells
    by its echo that all is mounted, and holds them open. Job and commands are no children of
    theirs: they are forked by the supervisor and enter, so that they are started, waited for and
    signalled as without a box. All of it ends with the supervisor, by ``--die-with-parent``.
    """

    def __init__(
        self,
        command: list[bytes],
        mounts: list[bytes],
        frozen: list[bytes],
        public: list[bytes],
    ) -> None:
        """Make it; `command` is bubblewrap's path and its arguments, up to what it is to run.

        `mounts` are three items each: ``ro`` or ``rw``, the path below the state folder, and the
        path in the box. Folders that are `frozen` are read-only once all of them are there. Of
        a folder that is `public` only that is there which everybody may read.

        Raises:
            MountRefused: One of the mounts is impossible; the text says why.
            OSError: It cannot be made; the text is bubblewrap's.
        """
        self.first, self.lid = start_bubblewrap(command)
        user, mounts_seen, self.pids = (
            os.open(f"/proc/{self.first}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            for name in ("user", "mnt", "pid")
        )
        # Who is not root is so in the namespace in which all is mounted, and itself in one below.
        owner = fcntl.ioctl(mounts_seen, NS_GET_USERNS)
        self.to_mount = [owner, mounts_seen]
        self.own_user = [] if os.path.sameopenfile(owner, user) else [user]
        items = iter(mounts)
        wanted = [Mount(*item) for item in zip(items, items, items, strict=True)]
        self._mount(wanted, [*map(os.fsdecode, frozen)], [*map(os.fsdecode, public)])

    def _mount(self, mounts: list[Mount], frozen: list[str], public: list[str]) -> None:
        """Mount what is the job's own, in a process that enters the mount namespace for it."""
        answer, telling = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                enter(self.to_mount)
                mount_all(mounts, frozen, public)
                code = 0
            except MountRefused as error:
                os.write(telling, b"!" + os.fsencode(str(error)))
            except OSError as error:
                os.write(telling, b" " + os.fsencode(str(error)))
            finally:
                os._exit(code)
        os.close(telling)
        text = b"".join(iter(lambda: os.read(answer, READ_SIZE), b""))
        os.close(answer)
        _, status = os.waitpid(pid, 0)
        if status:
            self.discard()
            kind = MountRefused if text[:1] == b"!" else OSError
            raise kind(os.fsdecode(text[1:]) or "the job's folders cannot be mounted")

    def fork(self) -> int:
        """Fork, and return 0 in a process that is inside.

        A pid namespace takes in only children of who entered it, so there is a process between;
        when it has gone its child is the supervisor's, as any orphan.
        """
        told, telling = os.pipe()
        between = os.fork()
        if between == 0:
            try:
                enter([*self.to_mount, self.pids, *self.own_user])
                pid = os.fork()
                if pid == 0:
                    give_up_privileges()
                    return 0
                os.write(telling, b"%d" % pid)
            except OSError:
                os._exit(1)
            os._exit(0)
        os.close(telling)
        pid = int(os.read(told, 20) or 0)
        os.close(told)
        os.waitpid(between, 0)
        if not pid:
            raise OSError(errno.ECHILD, "the job's namespaces cannot be entered")
        return pid

    def open_terminal(self) -> tuple[int, int]:
        """Return both ends of a new terminal that has its name inside the box."""
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        master = os.open(f"/proc/{self.first}/root/dev/pts/ptmx", flags)
        try:
            fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
            return master, fcntl.ioctl(master, TIOCGPTPEER, flags)
        except BaseException:
            os.close(master)
            raise

    def discard(self) -> None:
        """End a box in which nothing runs yet."""
        for descriptor in (self.lid, *self.to_mount, self.pids, *self.own_user):
            os.close(descriptor)


def enter(namespaces: list[int]) -> None:
    """Enter namespaces with this process, in this order; that of pids takes its children only."""
    for namespace in namespaces:
        check(libc.setns(namespace, 0))


def start_bubblewrap(command: list[bytes]) -> tuple[int, int]:
    """Start bubblewrap; return its first process, and a descriptor that keeps it for as long."""
    holder, lid = os.pipe()
    os.write(lid, b"\0")
    answer, echo = os.pipe()
    news, info = os.pipe()
    settings = os.memfd_create("arguments")
    os.write(settings, b"\0".join(command[1:]) + b"\0")
    os.lseek(settings, 0, os.SEEK_SET)
    pid = os.fork()
    if pid == 0:
        try:
            for target, fd in enumerate((holder, echo, echo)):
                os.dup2(fd, target)
            for fd in (settings, info):
                os.set_inheritable(fd, True)
            # It goes on ignoring what the supervisor ignores, and so does what it starts: a
            # SIGTERM for all of the job's family is none of its business.
            descriptors = (b"--args", b"%d" % settings, b"--info-fd", b"%d" % info)
            os.execve(command[0], [command[0], *descriptors, b"cat"], {b"PATH": PATH})
        except OSError as error:
            os.write(2, f"{os.fsdecode(command[0])}: {error.strerror}".encode())
        finally:
            os._exit(1)
    for fd in (holder, echo, info, settings):
        os.close(fd)
    text = b""
    while not text.endswith(b"\0"):
        piece = os.read(answer, READ_SIZE)
        if not piece:
            os.waitpid(pid, 0)
            for fd in (lid, answer, news):
                os.close(fd)
            raise OSError(text.decode(errors="replace").strip() or "bubblewrap said nothing")
        text += piece
    told = os.read(news, READ_SIZE).partition(b'"child-pid":')[2]
    for fd in (answer, news):
        os.close(fd)
    return int(told.replace(b"}", b",").partition(b",")[0]), lid


def mount_all(mounts: list[Mount], frozen: list[str], public: list[str]) -> None:
    """Mount what is a job's own, in the mount namespace that this process has entered."""
    # Opened before anything covers them.
    to_freeze = [os.open(path, FOLDER) for path in frozen]
    view = View()
    for path in public:
        view.show_public(path)
    stage = os.open(STAGE, FOLDER)
    # What is mounted inside another mount comes after it.
    for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
        view.mount(stage, mount)
    os.close(stage)
    check(libc.umount2(STAGE.encode(), MNT_DETACH))
    os.rmdir(STAGE)
    for folder in (*to_freeze, *view.shadows):
        set_attributes(folder, MOUNT_ATTR_RDONLY, is_recursive=False)


class View:
    """What a box shows at each path, and how something is added to it."""

    def __init__(self) -> None:
        self.shadows: list[int] = []
        """Temporary folders that stand in for read-only ones, by descriptor."""
        self._taken: set[str] = set()

    def mount(self, stage: int, mount: Mount) -> None:
        source = open_source(stage, mount)
        tree = clone(source)
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        set_attributes(tree, flags | (MOUNT_ATTR_RDONLY if mount.is_read_only else 0))
        place = self._find(mount.target, is_folder=is_folder(source))
        move(tree, place)
        for descriptor in (source, tree, place):
            os.close(descriptor)

    def show_public(self, path: str) -> None:
        """Leave nothing in a folder but what everybody may read."""
        try:
            folder = os.open(path, FOLDER)
        except OSError:
            return  # it is gone, or in a folder that is not public itself
        self._stand_in(folder, path, allows=lambda name: is_public(name, folder))
        os.close(folder)

    def _find(self, target: str, *, is_folder: bool) -> int:
        """Return a descriptor of a mount point; it is made if there is none.

        Links lead where they lead inside the box. What the machine lacks, and may not be changed
        for, is added to a temporary folder in place of the one above, which shows the same entries.
        """
        path, here, links = "/", os.open("/", FOLDER), 0
        todo = parts_of(target)
        while todo:
            name = todo.pop(0)
            wanted = os.path.join(path, name)
            refuse_place(wanted, target)
            below = open_below(here, name)
            kind = None if below is None else stat.S_IFMT(os.fstat(below).st_mode)
            if kind == stat.S_IFLNK:
                links += 1
                if links > MOST_LINKS:
                    raise MountRefused(f"{target!r} leads through a circle of links")
                link = os.readlink("", dir_fd=below)
                start = "/" if link.startswith("/") else path
                todo[:0] = parts_of(os.path.normpath(os.path.join(start, link)))
                path, here = "/", os.open("/", FOLDER)
                continue
            if (kind == stat.S_IFDIR) != bool(is_folder or todo) or kind is None:
                below = self._add(here, path, name, target, is_folder=is_folder or bool(todo))
            assert below is not None  # noqa: S101  # it was made if it was not there
            os.close(here)
            path, here = wanted, below
        if path == "/":
            raise MountRefused(f"nothing can be mounted at {target!r}; choose a path of its own")
        if path in self._taken:
            raise MountRefused(f"{target!r}: something else is there already")
        self._taken.add(path)
        return here

    def _add(self, folder: int, path: str, name: str, target: str, *, is_folder: bool) -> int:
        """Make a mount point in a folder, or in a temporary one in its place."""
        try:
            return make_below(folder, name, is_folder=is_folder)
        except FileExistsError:
            # There is a folder where a file is wanted, or the other way round.
            if self._is_mounted(path):
                raise MountRefused(f"{target!r}: something else is there already") from None
        except OSError as error:
            if self._is_mounted(path) and error.errno != errno.EROFS:
                raise MountRefused(f"{target!r}: {error.strerror}") from error
        shadow = self._stand_in(folder, path, allows=lambda entry: entry != name)
        return make_below(shadow, name, is_folder=is_folder)

    def _is_mounted(self, path: str) -> bool:
        """Return whether a path is in one of the job's own mounts."""
        return any(f"{path}/".startswith(f"{taken}/") for taken in self._taken)

    def _stand_in(self, folder: int, path: str, *, allows: Callable[[str], bool]) -> int:
        """Mount a temporary folder over another one, with all entries of that which are allowed."""
        shadow = new_folder()
        move(shadow, folder)
        with os.scandir(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)) as entries:
            names = [entry.name for entry in entries]
        if len(names) > MOST_ENTRIES:
            raise MountRefused(
                f"{path!r} has too many entries to add a mount point to them; "
                "choose one below a folder that is there"
            )
        for name in names:
            if allows(name):
                copy_entry(folder, shadow, name)
        self.shadows.append(shadow)
        return shadow


def open_source(stage: int, mount: Mount) -> int:
    """Open what is to be mounted; no part of its path may be a link."""
    here = os.dup(stage)
    for name in mount.source:
        below = open_below(here, name)
        if below is None or stat.S_ISLNK(os.fstat(below).st_mode):
            why = "it is gone" if below is None else "a link has no place in the storage"
            raise MountRefused(f"{mount.target!r}: {why}")
        os.close(here)
        here = below
    if stat.S_IFMT(os.fstat(here).st_mode) not in (stat.S_IFDIR, stat.S_IFREG):
        raise MountRefused(f"{mount.target!r}: it is neither a file nor a folder")
    return here


def refuse_place(path: str, target: str) -> None:
    """Raise an error about a path at which nothing can be mounted."""
    if path in ("/proc", STAGE) or path.startswith(("/proc/", STAGE + "/")):
        raise MountRefused(f"nothing can be mounted at {target!r}; choose a path of its own")


def copy_entry(folder: int, shadow: int, name: str) -> None:
    """Show an entry of one folder in another one."""
    entry = open_below(folder, name)
    if entry is None:
        return  # it has just gone
    try:
        if stat.S_ISLNK(os.fstat(entry).st_mode):
            os.symlink(os.readlink("", dir_fd=entry), name, dir_fd=shadow)
            return
        tree = clone(entry)
        place = make_below(shadow, name, is_folder=is_folder(entry))
        move(tree, place)
        os.close(tree)
        os.close(place)
    finally:
        os.close(entry)


def open_below(folder: int, name: str) -> int | None:
    """Open an entry of a folder by its name, itself if it is a link; None if there is none."""
    try:
        return os.open(name, OPEN, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


def make_below(folder: int, name: str, *, is_folder: bool) -> int:
    """Make an empty folder or file in a folder, and open it."""
    if is_folder:
        os.mkdir(name, 0o755, dir_fd=folder)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=folder))
    return os.open(name, OPEN, dir_fd=folder)


def is_public(path: str, folder: int | None = None) -> bool:
    """Return whether everybody may read a file, or what is in a folder; a link is public."""
    try:
        mode = os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return stat.S_ISLNK(mode) or mode & wanted == wanted


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def clone(descriptor: int) -> int:
    """Return a mount of a folder or file, and of what is mounted in it, that is nowhere yet."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
    return call(SYS_OPEN_TREE, descriptor, b"", flags)


def move(mount: int, place: int) -> None:
    """Put a mount in its place."""
    call(SYS_MOVE_MOUNT, mount, b"", place, b"", MOVE_MOUNT_BY_DESCRIPTORS)


def new_folder() -> int:
    """Return a mount of an empty temporary folder that is nowhere yet."""
    context = call(SYS_FSOPEN, b"tmpfs", 1)
    call(SYS_FSCONFIG, context, FSCONFIG_SET_STRING, b"mode", b"0755", 0)
    call(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
    mount = call(SYS_FSMOUNT, context, 1, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    os.close(context)
    return mount


def set_attributes(mount: int, attributes: int, *, is_recursive: bool = True) -> None:
    """Set attributes of a mount, and of all mounts in it."""
    change = attributes.to_bytes(8, "little" if _IS_LITTLE else "big") + bytes(24)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if is_recursive else 0)
    call(SYS_MOUNT_SETATTR, mount, b"", flags, change, len(change))


_IS_LITTLE = (1).to_bytes(2, "little") == bytes(ctypes.c_uint16(1))


def give_up_privileges() -> None:
    """Keep nothing of what entering a user namespace gave, and gain nothing by any program."""
    capability = 0
    while libc.prctl(24, capability, 0, 0, 0) == 0:  # PR_CAPBSET_DROP, up to the last one there is
        capability += 1
    if not capability or libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise PermissionError(errno.EPERM, "the job's privileges cannot be given up")


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call, and return its result."""
    converted = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
        for argument in arguments
    ]
    return check(libc.syscall(ctypes.c_long(number), *converted))


def check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
