/* Moves the wall clock of the processes that preload this: LD_PRELOAD=clock.so CHAOS_CLOCK=FILE.

   FILE holds the offset in seconds, a 64-bit integer, and is mapped, so that a change is seen at
   once. The monotonic clock, timeouts and the times of files stay true, as they do when an
   administrator or NTP sets a machine's clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset;
static int (*true_clock_gettime)(clockid_t, struct timespec *);
static int (*true_gettimeofday)(struct timeval *, void *);

__attribute__((constructor)) static void begin(void) {
    true_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    true_gettimeofday = dlsym(RTLD_NEXT, "gettimeofday");
    const char *path = getenv("CHAOS_CLOCK");
    int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (descriptor < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped != MAP_FAILED)
        offset = mapped;
}

static int64_t now(void) { return offset ? *offset : 0; }

int clock_gettime(clockid_t clock, struct timespec *found) {
    if (!true_clock_gettime)
        begin();
    int result = true_clock_gettime(clock, found);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        found->tv_sec += now();
    return result;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    if (!true_gettimeofday)
        begin();
    int result = true_gettimeofday(found, zone);
    if (result == 0)
        found->tv_sec += now();
    return result;
}

time_t time(time_t *found) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (found)
        *found = at.tv_sec;
    return at.tv_sec;
}
