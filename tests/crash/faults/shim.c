/* Lets chosen system calls on files under one directory fail, and writes down what reached those files.
 *
 * Preloaded into a process; one that was forked calls begin() again. FAULT_UNDER is the directory; FAULT_CONTROL is a file with the struct below, which the
 * test may read and write meanwhile; FAULT_TRACE, if given, is a file that gets a record for each call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4 };

struct control {
    int64_t calls;  /* which calls: a sum of the above */
    int64_t nth;    /* the first of them that fails, from 1; 0 is none */
    int64_t times;  /* how many fail; -1 is all from there on */
    int64_t error;  /* with which errno */
    int64_t is_short; /* the first that fails writes the half of its bytes, and says so */
    int64_t seen;   /* how many of them there were */
    int64_t failed; /* how many of them failed */
};

struct record {
    int64_t kind, offset, length, path;
};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct control *control;
static const char *under;
static int trace = -1;
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);

__attribute__((constructor)) void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    const char *where = getenv("FAULT_CONTROL"), *log = getenv("FAULT_TRACE");
    under = getenv("FAULT_UNDER");
    if (!where || !under)
        return;
    int fd = open(where, O_RDWR);
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        control = shared;
    if (log)
        trace = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
}

static int is_watched(const char *path) {
    size_t length = under ? strlen(under) : 0;
    return control && length && !strncmp(path, under, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = control ? readlink(link, path, 4000) : -1;
    path[length > 0 ? length : 0] = 0;
    return length > 0 && is_watched(path);
}

static void note(char kind, const char *path, int64_t offset, const void *data, int64_t length) {
    if (trace < 0)
        return;
    struct record record = {kind, offset, length, (int64_t)strlen(path)};
    struct iovec parts[] = {
        {&record, sizeof record}, {(void *)path, (size_t)record.path}, {(void *)data, data ? (size_t)length : 0}};
    if (writev(trace, parts, 3) < 0)
        abort();
}

static int is_due(int call) {
    if (!(control->calls & call))
        return 0;
    control->seen++;
    if (!control->nth || control->seen < control->nth || (control->times >= 0 && control->failed >= control->times))
        return 0;
    control->failed++;
    return 1;
}

static ssize_t put(int fd, const char *path, const void *data, size_t length, off_t offset, int is_at) {
    size_t wanted = length;
    if (is_due(WRITE)) {
        if (!control->is_short || control->failed > 1 || length < 2) {
            errno = (int)control->error;
            return -1;
        }
        wanted = length / 2;
    }
    ssize_t written = is_at ? real_pwrite(fd, data, wanted, offset) : real_write(fd, data, wanted);
    if (written > 0)
        note('W', path, offset, data, written);
    return written;
}

ssize_t write(int fd, const void *data, size_t length) {
    char path[4001];
    if (!path_of(fd, path))
        return real_write(fd, data, length);
    pthread_mutex_lock(&guard);
    ssize_t written = put(fd, path, data, length, lseek(fd, 0, SEEK_CUR), 0);
    pthread_mutex_unlock(&guard);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    char path[4001];
    if (!path_of(fd, path))
        return real_pwrite(fd, data, length, offset);
    pthread_mutex_lock(&guard);
    ssize_t written = put(fd, path, data, length, offset, 1);
    pthread_mutex_unlock(&guard);
    return written;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) { return pwrite(fd, data, length, offset); }

static int sync_with(int (*real)(int), int fd) {
    char path[4001];
    if (!path_of(fd, path))
        return real(fd);
    pthread_mutex_lock(&guard);
    int result = -1;
    if (is_due(SYNC))
        errno = (int)control->error;
    else
        result = real(fd);
    int error = errno;
    note(result ? 'F' : 'S', path, 0, NULL, 0);
    pthread_mutex_unlock(&guard);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_with(real_fsync, fd); }

int fdatasync(int fd) { return sync_with(real_fdatasync, fd); }

int ftruncate(int fd, off_t size) {
    char path[4001];
    if (!path_of(fd, path))
        return real_ftruncate(fd, size);
    pthread_mutex_lock(&guard);
    int result = -1;
    if (is_due(TRUNCATE))
        errno = (int)control->error;
    else if (!(result = real_ftruncate(fd, size)))
        note('T', path, size, NULL, 0);
    pthread_mutex_unlock(&guard);
    return result;
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int unlink(const char *path) {
    pthread_mutex_lock(&guard);
    int result = real_unlink(path);
    if (!result && is_watched(path))
        note('U', path, 0, NULL, 0);
    pthread_mutex_unlock(&guard);
    return result;
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&guard);
    int result = real_rename(from, to);
    if (!result && is_watched(from))
        note('R', from, 0, to, (int64_t)strlen(to));
    pthread_mutex_unlock(&guard);
    return result;
}
