/* Between a program and libc (LD_PRELOAD): sees each step by which it changes files below some folders, writes it down,
 * and at a chosen one kills the program or lets the call fail. The product has no hook for this, and what its crates do
 * is seen as well. Whether nothing passes by is tested: the steps, applied to a copy, must give the same files.
 *
 * Environment:
 *   SHIM_ROOTS  absolute folders without links, by ':'; what lies elsewhere isn't seen
 *   SHIM_TRACE  file that the steps are appended to (its form: struct head); beside it, ".count" holds their number
 *   SHIM_KILL   before this step (from 1) the whole process group gets SIGKILL
 *   SHIM_UNSYNCED  fsync and syncfs are written down and not done: what a power failure leaves is worked out elsewhere
 *   SHIM_FAIL   rules by ';', each "what,path,from,times,errno": calls of this kind (open, read, write, fsync, name, or
 *               any) on paths that contain `path` fail, from the from-th on (1 is the first), so many times (0: for ever)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { CREATE = 1, LENGTH, WRITE, FSYNC, SYNCFS, RENAME, LINK, UNLINK, MKDIR, RMDIR, SYMLINK, MODE, ZERO, KILLED };
enum what { OPEN_CALL, READ_CALL, WRITE_CALL, FSYNC_CALL, NAME_CALL, CALLS };
static const char *const WHAT[CALLS] = {"open", "read", "write", "fsync", "name"};

/* One step; then the two paths and the data. `at`: offset of a write, length of LENGTH, mode of CREATE, MKDIR, MODE, the
 * kind of the step that wasn't done for KILLED, offset for ZERO, whose second path is the length. `ino` is that of the
 * file or folder. */
struct head {
    uint32_t op, path1, path2, data;
    uint64_t step, ino, at;
};

struct rule {
    unsigned what; /* a bit for each kind of call */
    char path[256];
    long from, times, seen;
    int error;
};

static char roots[16][PATH_MAX];
static int root_count;
static struct rule rules[16];
static int rule_count;
static unsigned ruled; /* kinds of calls that any rule is about */
static long kill_at;
static int unsynced;
static int trace_fd = -1;
static uint64_t *counter;
static uint64_t own_counter;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void die(const char *why) {
    dprintf(2, "shim: %s: %s\n", why, strerror(errno));
    _exit(99);
}

/* Out of the way of a program that is given few descriptors. */
static int high(int fd) {
    if (fd < 0) return fd;
    int there = fcntl(fd, F_DUPFD_CLOEXEC, 500);
    if (there < 0) return fd;
    close(fd);
    return there;
}

static void set_up(void) {
    char *text, *word, *rest;
    if ((text = getenv("SHIM_ROOTS")) != NULL) {
        text = strdup(text);
        for (word = strtok_r(text, ":", &rest); word && root_count < 16; word = strtok_r(NULL, ":", &rest))
            snprintf(roots[root_count++], PATH_MAX, "%s", word);
        free(text);
    }
    if ((text = getenv("SHIM_KILL")) != NULL) kill_at = atol(text);
    unsynced = getenv("SHIM_UNSYNCED") != NULL;
    if ((text = getenv("SHIM_FAIL")) != NULL) {
        text = strdup(text);
        for (word = strtok_r(text, ";", &rest); word && rule_count < 16; word = strtok_r(NULL, ";", &rest)) {
            struct rule *rule = &rules[rule_count++];
            char what[16];
            if (sscanf(word, "%15[^,],%255[^,],%ld,%ld,%d", what, rule->path, &rule->from, &rule->times, &rule->error) != 5)
                die("a rule that can't be read");
            for (int i = 0; i < CALLS; i++)
                if (!strcmp(what, WHAT[i]) || !strcmp(what, "any")) rule->what |= 1u << i;
            if (!rule->what) die("an unknown kind of call");
            ruled |= rule->what;
        }
        free(text);
    }
    counter = &own_counter;
    if ((text = getenv("SHIM_TRACE")) != NULL) {
        char path[PATH_MAX];
        trace_fd = high(REAL(open)(text, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
        if (trace_fd < 0) die(text);
        snprintf(path, sizeof path, "%s.count", text);
        int fd = REAL(open)(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || REAL(ftruncate)(fd, 4096) != 0) die(path);
        counter = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (counter == MAP_FAILED) die(path);
        close(fd);
    }
}

static int below_roots(const char *path) {
    for (int i = 0; i < root_count; i++) {
        size_t len = strlen(roots[i]);
        if (!strncmp(path, roots[i], len) && (path[len] == '/' || path[len] == 0)) return 1;
    }
    return 0;
}

/* The path of an open file; empty if it has none. */
static void path_of(int fd, char out[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    if (out[0] != '/') out[0] = 0;
}

/* The path without links but for its last name, as the system will take it; empty if there is none. */
static void resolve(int dir, const char *path, char out[PATH_MAX]) {
    char whole[PATH_MAX * 2], parent[PATH_MAX];
    out[0] = 0;
    if (!path || !*path) return;
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return;
        } else {
            path_of(dir, base);
        }
        snprintf(whole, sizeof whole, "%s/%s", base, path);
    }
    size_t len = strlen(whole);
    while (len > 1 && whole[len - 1] == '/') whole[--len] = 0;
    char *slash = strrchr(whole, '/');
    const char *name = slash + 1;
    if (!strcmp(name, ".") || !strcmp(name, "..") || !*name) {
        if (!realpath(whole, out)) out[0] = 0;
        return;
    }
    *slash = 0;
    if (!realpath(*whole ? whole : "/", parent)) return;
    if ((size_t)snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", name) >= PATH_MAX) out[0] = 0;
}

static void record(enum op op, uint64_t ino, uint64_t at, const char *path1, const char *path2, const struct iovec *data,
                   int count, size_t len) {
    if (trace_fd < 0) return;
    struct head head = {op, (uint32_t)strlen(path1), path2 ? (uint32_t)strlen(path2) : 0, (uint32_t)len, *counter, ino, at};
    struct iovec first[3] = {{&head, sizeof head}, {(void *)path1, head.path1}, {(void *)path2, head.path2}};
    if (REAL(writev)(trace_fd, first, 3) != (ssize_t)(sizeof head + head.path1 + head.path2)) die("the trace");
    for (int i = 0; i < count && len > 0; i++) {
        size_t part = data[i].iov_len < len ? data[i].iov_len : len;
        for (size_t done = 0; done < part;) {
            ssize_t n = REAL(write)(trace_fd, (char *)data[i].iov_base + done, part - done);
            if (n <= 0) die("the trace");
            done += (size_t)n;
        }
        len -= part;
    }
}

/* One step at a time, so that they are written down in the order in which they happened. */
static void lock(void) {
    pthread_mutex_lock(&mutex);
    if (trace_fd >= 0 && flock(trace_fd, LOCK_EX) != 0) die("the trace's lock");
}

static void unlock(void) {
    int saved = errno;
    if (trace_fd >= 0) flock(trace_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = saved;
}

/* Must this call fail? */
static int fails(enum what what, const char *path) {
    if (!(ruled & (1u << what)) || !*path) return 0;
    int error = 0;
    for (int i = 0; i < rule_count; i++) {
        struct rule *rule = &rules[i];
        if (!(rule->what & (1u << what)) || !strstr(path, rule->path)) continue;
        long nth = __sync_add_and_fetch(&rule->seen, 1);
        if (nth >= rule->from && (!rule->times || nth < rule->from + rule->times)) error = rule->error;
    }
    return error;
}

/* With the lock held: a step is about to be done. */
static void step(enum op op, const char *path) {
    uint64_t n = ++*counter;
    if (kill_at > 0 && n == (uint64_t)kill_at) {
        record(KILLED, 0, op, path, NULL, NULL, 0, 0);
        kill(0, SIGKILL);
        for (;;) pause();
    }
}

static uint64_t ino_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static uint64_t ino_at(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 ? st.st_ino : 0;
}

/* ---- files ---- */

static int open_file(int (*real)(int, const char *, int, ...), int dir, const char *path, int flags, mode_t mode) {
    pthread_once(&once, set_up);
    char full[PATH_MAX];
    int changes = (flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE;
    if (!changes && !(ruled & (1u << OPEN_CALL))) return real(dir, path, flags, mode);
    resolve(dir, path, full);
    int error = fails(OPEN_CALL, full);
    if (error) {
        errno = error;
        return -1;
    }
    if (!changes || !below_roots(full)) return real(dir, path, flags, mode);
    lock();
    struct stat before;
    int was = lstat(full, &before) == 0;
    int empties = was && (flags & O_TRUNC) && S_ISREG(before.st_mode) && before.st_size > 0;
    if (was && !empties) {
        unlock();
        return real(dir, path, flags, mode);
    }
    step(was ? LENGTH : CREATE, full);
    int fd = real(dir, path, flags, mode);
    if (fd >= 0) {
        struct stat st;
        fstat(fd, &st);
        if (was)
            record(LENGTH, st.st_ino, 0, full, NULL, NULL, 0, 0);
        else
            record(CREATE, st.st_ino, st.st_mode & 07777, full, NULL, NULL, 0, 0);
    }
    unlock();
    return fd;
}

static int real_openat(int dir, const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, mode_t);
    va_end(list);
    return (int)syscall(SYS_openat, dir, path, flags | O_LARGEFILE, mode);
}

#define MODE_OF(flags)                                                                                                        \
    mode_t mode = 0;                                                                                                          \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                                    \
        va_list list;                                                                                                         \
        va_start(list, flags);                                                                                                \
        mode = va_arg(list, mode_t);                                                                                          \
        va_end(list);                                                                                                         \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_file(real_openat, AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_file(real_openat, AT_FDCWD, path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_file(real_openat, dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_file(real_openat, dir, path, flags, mode);
}
int creat(const char *path, mode_t mode) { return open_file(real_openat, AT_FDCWD, path, O_CREAT | O_TRUNC | O_WRONLY, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* `at` below 0: where the file's own position is. */
static ssize_t write_file(int fd, const struct iovec *data, int count, off_t at) {
    pthread_once(&once, set_up);
    char path[PATH_MAX];
    path[0] = 0;
    if (root_count || ruled) path_of(fd, path);
    int error = fails(WRITE_CALL, path);
    if (error) {
        errno = error;
        return -1;
    }
    if (!*path || !below_roots(path)) return at < 0 ? REAL(writev)(fd, data, count) : REAL(pwritev)(fd, data, count, at);
    lock();
    step(WRITE, path);
    struct stat st;
    fstat(fd, &st);
    off_t from = at;
    if (at < 0) from = fcntl(fd, F_GETFL) & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t n = at < 0 ? REAL(writev)(fd, data, count) : REAL(pwritev)(fd, data, count, at);
    if (n > 0) record(WRITE, st.st_ino, (uint64_t)from, path, NULL, data, count, (size_t)n);
    unlock();
    return n;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    struct iovec one = {(void *)bytes, len};
    return write_file(fd, &one, 1, -1);
}
ssize_t writev(int fd, const struct iovec *data, int count) { return write_file(fd, data, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) {
    struct iovec one = {(void *)bytes, len};
    return write_file(fd, &one, 1, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) { return pwrite(fd, bytes, len, at); }
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t at) { return write_file(fd, data, count, at); }
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t at) { return write_file(fd, data, count, at); }

static int read_fails(int fd) {
    pthread_once(&once, set_up);
    if (!(ruled & (1u << READ_CALL))) return 0;
    char path[PATH_MAX];
    path_of(fd, path);
    int error = fails(READ_CALL, path);
    if (error) errno = error;
    return error;
}
ssize_t read(int fd, void *bytes, size_t len) { return read_fails(fd) ? -1 : syscall(SYS_read, fd, bytes, len); }
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, bytes, len, at); }
ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) { return pread(fd, bytes, len, at); }

/* A change of an open file that `real` does, as one step. */
#define ON_FILE(WHAT, OP, AT, REAL_CALL)                                                                                      \
    pthread_once(&once, set_up);                                                                                              \
    char path[PATH_MAX];                                                                                                      \
    path_of(fd, path);                                                                                                        \
    int error = fails(WHAT, path);                                                                                            \
    if (error) {                                                                                                              \
        errno = error;                                                                                                        \
        return -1;                                                                                                            \
    }                                                                                                                         \
    if (!*path || !below_roots(path)) return REAL_CALL;                                                                       \
    lock();                                                                                                                   \
    step(OP, path);                                                                                                           \
    int result = REAL_CALL;                                                                                                   \
    if (result == 0) record(OP, ino_of(fd), AT, path, NULL, NULL, 0, 0);                                                      \
    unlock();                                                                                                                 \
    return result;

int ftruncate(int fd, off_t len) { ON_FILE(WRITE_CALL, LENGTH, (uint64_t)len, (int)syscall(SYS_ftruncate, fd, len)) }
int ftruncate64(int fd, off64_t len) { return ftruncate(fd, len); }
int fchmod(int fd, mode_t mode) { ON_FILE(NAME_CALL, MODE, mode & 07777, (int)syscall(SYS_fchmod, fd, mode)) }
int fsync(int fd) { ON_FILE(FSYNC_CALL, FSYNC, 0, unsynced ? 0 : (int)syscall(SYS_fsync, fd)) }
int fdatasync(int fd) { ON_FILE(FSYNC_CALL, FSYNC, 0, unsynced ? 0 : (int)syscall(SYS_fdatasync, fd)) }
/* Which folders lie on that file system isn't asked: those below the roots must. */
int syncfs(int fd) { ON_FILE(FSYNC_CALL, SYNCFS, 0, unsynced ? 0 : (int)syscall(SYS_syncfs, fd)) }

/* ---- names ---- */

/* A change of one or two names that `real` does, as one step. */
#define ON_NAMES(OP, DIR1, PATH1, DIR2, PATH2, AT, INO, REAL_CALL)                                                            \
    pthread_once(&once, set_up);                                                                                              \
    char one[PATH_MAX], two[PATH_MAX];                                                                                        \
    resolve(DIR1, PATH1, one);                                                                                                \
    resolve(DIR2, PATH2, two);                                                                                                \
    int error = fails(NAME_CALL, one);                                                                                        \
    if (!error && *two) error = fails(NAME_CALL, two);                                                                        \
    if (error) {                                                                                                              \
        errno = error;                                                                                                        \
        return -1;                                                                                                            \
    }                                                                                                                         \
    if (!below_roots(one) && !below_roots(two)) return REAL_CALL;                                                             \
    lock();                                                                                                                   \
    step(OP, *two ? two : one);                                                                                               \
    int result = REAL_CALL;                                                                                                   \
    if (result == 0) record(OP, INO, AT, one, two, NULL, 0, 0);                                                               \
    unlock();                                                                                                                 \
    return result;

static int change_mkdir(int dir, const char *path, mode_t mode) {
    ON_NAMES(MKDIR, dir, path, 0, NULL, mode, ino_at(one), (int)syscall(SYS_mkdirat, dir, path, mode))
}
int mkdir(const char *path, mode_t mode) { return change_mkdir(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return change_mkdir(dir, path, mode); }

static int change_unlink(int dir, const char *path) {
    ON_NAMES(UNLINK, dir, path, 0, NULL, 0, 0, (int)syscall(SYS_unlinkat, dir, path, 0))
}
static int change_rmdir(int dir, const char *path) {
    ON_NAMES(RMDIR, dir, path, 0, NULL, 0, 0, (int)syscall(SYS_unlinkat, dir, path, AT_REMOVEDIR))
}
int unlink(const char *path) { return change_unlink(AT_FDCWD, path); }
int rmdir(const char *path) { return change_rmdir(AT_FDCWD, path); }
int unlinkat(int dir, const char *path, int flags) {
    return flags & AT_REMOVEDIR ? change_rmdir(dir, path) : change_unlink(dir, path);
}

static int change_rename(int from, const char *old, int to, const char *new, unsigned flags) {
    ON_NAMES(RENAME, from, old, to, new, flags, ino_at(two), (int)syscall(SYS_renameat2, from, old, to, new, flags))
}
int rename(const char *old, const char *new) { return change_rename(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return change_rename(from, old, to, new, 0); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return change_rename(from, old, to, new, flags);
}

static int change_link(int from, const char *old, int to, const char *new, int flags) {
    ON_NAMES(LINK, from, old, to, new, 0, ino_at(two), (int)syscall(SYS_linkat, from, old, to, new, flags))
}
int link(const char *old, const char *new) { return change_link(AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return change_link(from, old, to, new, flags); }

static int change_symlink(const char *target, int dir, const char *path) {
    pthread_once(&once, set_up);
    char full[PATH_MAX];
    resolve(dir, path, full);
    int error = fails(NAME_CALL, full);
    if (error) {
        errno = error;
        return -1;
    }
    if (!below_roots(full)) return (int)syscall(SYS_symlinkat, target, dir, path);
    lock();
    step(SYMLINK, full);
    int result = (int)syscall(SYS_symlinkat, target, dir, path);
    if (result == 0) record(SYMLINK, ino_at(full), 0, full, target, NULL, 0, 0);
    unlock();
    return result;
}
int symlink(const char *target, const char *path) { return change_symlink(target, AT_FDCWD, path); }
int symlinkat(const char *target, int dir, const char *path) { return change_symlink(target, dir, path); }

/* A hole in a file that stays as long as it is. */
static int punch(int fd, int mode, off_t at, off_t len) {
    char size[32];
    snprintf(size, sizeof size, "%lld", (long long)len);
    pthread_once(&once, set_up);
    char path[PATH_MAX];
    path_of(fd, path);
    int error = fails(WRITE_CALL, path);
    if (error) {
        errno = error;
        return -1;
    }
    if (!*path || !below_roots(path)) return (int)syscall(SYS_fallocate, fd, mode, at, len);
    lock();
    step(ZERO, path);
    int result = (int)syscall(SYS_fallocate, fd, mode, at, len);
    if (result == 0) record(ZERO, ino_of(fd), (uint64_t)at, path, size, NULL, 0, 0);
    unlock();
    return result;
}

/* ---- what isn't written down, and so must not happen ---- */

static int unseen(int fd, const char *what) {
    pthread_once(&once, set_up);
    char path[PATH_MAX];
    path_of(fd, path);
    if (!*path || !below_roots(path)) return 0;
    dprintf(2, "shim: %s on %s is not written down\n", what, path);
    return 1;
}
/* The standard library then copies by read and write. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags) {
    (void)in, (void)in_at, (void)out, (void)out_at, (void)len, (void)flags;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int out, int in, off_t *at, size_t len) {
    (void)out, (void)in, (void)at, (void)len;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t len) { return sendfile(out, in, at, len); }
ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags) {
    (void)in, (void)in_at, (void)out, (void)out_at, (void)len, (void)flags;
    errno = ENOSYS;
    return -1;
}
int fallocate(int fd, int mode, off_t at, off_t len) {
    if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) return punch(fd, mode, at, len);
    if (unseen(fd, "fallocate")) _exit(99);
    return (int)syscall(SYS_fallocate, fd, mode, at, len);
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) {
    if (unseen(fd, "posix_fallocate")) _exit(99);
    return syscall(SYS_fallocate, fd, 0, at, len) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off64_t at, off64_t len) { return posix_fallocate(fd, at, len); }
