/* Fails, interrupts or holds the n-th call of some kind on files whose path fits a pattern.
 *
 *   FAULT_PATH   a pattern of absolute paths; * matches / too
 *   FAULT_CALLS  which calls: words of create, open, write, fsync, rename, mkdir, remove
 *   FAULT_AT     which of them, counted over all processes, from 1; 0: none
 *   FAULT_DO     error:N   that call fails with errno N
 *                full:N    so do all that come after; a write first takes half of what it is given
 *                signal:N  the process sends itself signal N, then calls
 *                hold      it waits until STATE.go is there, or a signal has come
 *   FAULT_CLOCK  seconds by which the time of day is off; with a / before, more so at each look
 *   FAULT_STATE  a file of eight zeros: the count; each call is added to STATE.log
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { GO_ON, HALF, FAIL };

static int state_file(const char *end, int flags) {
    char name[PATH_MAX];
    snprintf(name, sizeof name, "%s%s", getenv("FAULT_STATE"), end);
    return syscall(SYS_openat, AT_FDCWD, name, flags | O_CLOEXEC, 0600);
}

static long count(void) {
    int file = state_file("", O_RDWR);
    if (file < 0) return 0;
    long *counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (counter == MAP_FAILED) return 0;
    long now = __sync_add_and_fetch(counter, 1);
    munmap(counter, sizeof *counter);
    return now;
}

static void note(const char *call, const char *path) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    int file = state_file(".log", O_WRONLY | O_CREAT | O_APPEND);
    syscall(SYS_write, file, line, (size_t)length);
    syscall(SYS_close, file);
}

static void hold(void) {
    char pid[32];
    int file = state_file(".reached", O_WRONLY | O_CREAT);
    syscall(SYS_write, file, pid, (size_t)snprintf(pid, sizeof pid, "%d\n", getpid()));
    syscall(SYS_close, file);
    for (int tick = 0; tick < 18000; tick++) {
        struct timespec pause = {0, 10000000};
        if ((file = state_file(".go", O_RDONLY)) >= 0) {
            syscall(SYS_close, file);
            return;
        }
        if (nanosleep(&pause, NULL) != 0) return;
    }
}

static int fault(const char *call, const char *path) {
    const char *pattern = getenv("FAULT_PATH"), *calls = getenv("FAULT_CALLS");
    const char *what = getenv("FAULT_DO"), *at = getenv("FAULT_AT");
    if (!pattern || !calls || !what || !at || !getenv("FAULT_STATE")) return GO_ON;
    if (!strstr(calls, call) || fnmatch(pattern, path, 0) != 0) return GO_ON;
    int before = errno;
    long number = count(), wanted = atol(at);
    note(call, path);
    errno = before;
    int value = strchr(what, ':') ? atoi(strchr(what, ':') + 1) : 0;
    int now = wanted && number == wanted;
    if (!strncmp(what, "full", 4) && wanted && number >= wanted) {
        errno = value;
        return now ? HALF : FAIL;
    }
    if (!now) return GO_ON;
    if (!strncmp(what, "error", 5)) {
        errno = value;
        return FAIL;
    }
    if (!strncmp(what, "signal", 6)) kill(getpid(), value);
    if (!strncmp(what, "hold", 4)) hold();
    errno = before;
    return GO_ON;
}

static int fault_at(const char *call, int folder, const char *path) {
    char whole[PATH_MAX * 2], base[PATH_MAX] = "";
    if (path[0] == '/') return fault(call, path);
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return GO_ON;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return GO_ON;
        base[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return fault(call, whole);
}

static int fault_of(const char *call, int file) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0 || path[0] != '/') return GO_ON;
    path[length] = 0;
    return fault(call, path);
}

static int opens(int folder, const char *path, int flags) {
    return fault_at(flags & O_CREAT ? "create" : "open", folder, path) != GO_ON;
}

#define MODE(flags, mode)                                  \
    mode_t mode = 0;                                       \
    if (flags & (O_CREAT | O_TMPFILE)) {                   \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        mode = va_arg(rest, mode_t);                       \
        va_end(rest);                                      \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    return opens(AT_FDCWD, path, flags) ? -1 : REAL(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    return opens(AT_FDCWD, path, flags) ? -1 : REAL(open64)(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE(flags, mode)
    return opens(folder, path, flags) ? -1 : REAL(openat)(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags, mode)
    return opens(folder, path, flags) ? -1 : REAL(openat64)(folder, path, flags, mode);
}
ssize_t write(int file, const void *content, size_t length) {
    int found = fault_of("write", file);
    if (found == FAIL || (found == HALF && length < 2)) return -1;
    return REAL(write)(file, content, found == HALF ? length / 2 : length);
}
int fsync(int file) { return fault_of("fsync", file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return fault_of("fsync", file) ? -1 : REAL(fdatasync)(file); }
int rename(const char *from, const char *to) {
    return fault_at("rename", AT_FDCWD, to) ? -1 : REAL(rename)(from, to);
}
int renameat(int source, const char *from, int folder, const char *to) {
    return fault_at("rename", folder, to) ? -1 : REAL(renameat)(source, from, folder, to);
}
int mkdir(const char *path, mode_t mode) {
    return fault_at("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int unlink(const char *path) {
    return fault_at("remove", AT_FDCWD, path) ? -1 : REAL(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
    return fault_at("remove", folder, path) ? -1 : REAL(unlinkat)(folder, path, flags);
}
int rmdir(const char *path) { return fault_at("remove", AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }

static time_t off(void) {
    static long looks;
    const char *clock = getenv("FAULT_CLOCK");
    if (!clock) return 0;
    return clock[0] == '/' ? atol(clock + 1) * __sync_add_and_fetch(&looks, 1) : atol(clock);
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, which, now);
    if (result == 0 && which == CLOCK_REALTIME) now->tv_sec += off();
    return result;
}
time_t time(time_t *now) {
    struct timespec here;
    clock_gettime(CLOCK_REALTIME, &here);
    if (now) *now = here.tv_sec;
    return here.tv_sec;
}
