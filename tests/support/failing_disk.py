"""A disk that fails as it is told to, below every library: what is written in some folders meets an error.

For errors that no disk of a test can be made to give: a quota's, a broken device's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.services import missing

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int failure(const char *path) {
    const char *folders = getenv("FAILING_FOLDERS"), *control = getenv("FAILING_CONTROL");
    char number[16] = "";
    if (!folders || !control || !path || path[0] != '/') return 0;
    for (const char *one = folders; *one;) {
        size_t length = strcspn(one, ":");
        if (!strncmp(path, one, length) && (path[length] == '/' || !path[length])) {
            int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
            if (file < 0) return 0;
            ssize_t got = syscall(SYS_read, file, number, sizeof number - 1);
            syscall(SYS_close, file);
            return got > 0 ? atoi(number) : 0;
        }
        one += length;
        if (*one) one++;
    }
    return 0;
}

static int failure_of(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return failure(path);
}

#define FAIL(found) do { int error = (found); if (error) { errno = error; return -1; } } while (0)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (WRITES(flags)) FAIL(failure(path)); \
        return ((int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if (WRITES(flags)) FAIL(failure(path)); \
        return ((int (*)(int, const char *, int, mode_t))dlsym(RTLD_NEXT, #name))(at, path, flags, mode); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size) {
    FAIL(failure_of(file));
    return syscall(SYS_write, file, data, size);
}
int fsync(int file) { FAIL(failure_of(file)); return syscall(SYS_fsync, file); }
int mkdir(const char *path, mode_t mode) { FAIL(failure(path)); return syscall(SYS_mkdirat, AT_FDCWD, path, mode); }
int rename(const char *from, const char *to) {
    FAIL(failure(to));
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
"""


class FailingDisk:
    """Folders in which a process that has `environment`, and all below it, meets the error that is set."""

    def __init__(self, work: Path, *folders: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            missing("a C compiler")
        library, source = work / "failing.so", work / "failing.c"
        source.write_text(_SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._control = work / "failing.errno"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAILING_FOLDERS": os.pathsep.join(map(str, folders)),
            "FAILING_CONTROL": str(self._control),
        }

    def fail(self, error: int) -> None:
        """Fail from now on with that error number."""
        new = self._control.with_suffix(".new")
        new.write_text(str(error))
        new.rename(self._control)

    def heal(self) -> None:
        """Fail no more."""
        self._control.unlink()
