/* CPUs by affinity and cgroup quota. A container with a quota of 2 CPUs on a machine of 64 shows 64
 * in every other place, and a pool of 64 threads under that quota is stopped most of the time. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/cpus.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

enum { PATH_BYTES = 1024, LINE_BYTES = 2048 };

/* The first line of folder/name; false where it cannot be read. */
static bool read_line(const char *folder, const char *name, char line[LINE_BYTES]) {
    char path[2 * PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return false;
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool ok = fgets(line, LINE_BYTES, file) != NULL;
    fclose(file);
    return ok;
}

/* CPUs of one group's folder, rounded up; 0: no quota. */
static int folder_quota(const char *folder, bool v2) {
    char line[LINE_BYTES];
    long long quota = 0, period = 0;
    if (v2) { /* "max 100000" or "150000 100000" */
        if (!read_line(folder, "cpu.max", line) || sscanf(line, "%lld %lld", &quota, &period) != 2)
            return 0;
    } else { /* -1: no quota */
        if (!read_line(folder, "cpu.cfs_quota_us", line) || sscanf(line, "%lld", &quota) != 1 ||
            !read_line(folder, "cpu.cfs_period_us", line) || sscanf(line, "%lld", &period) != 1)
            return 0;
    }
    if (quota <= 0 || period <= 0 || quota / period > 100000)
        return 0;
    return (int)((quota + period - 1) / period);
}

/* The smallest quota of the group and its parents. In a container the path may be one of the host
 * that does not exist here; the walk then ends at the mount, which is the container's own group. */
static int walk_quota(const char *mount, const char *controller, const char *group) {
    char folder[2 * PATH_BYTES];
    int length = snprintf(folder, sizeof folder, "%s%s%s", mount, controller, group);
    if (length < 0 || (size_t)length >= sizeof folder)
        return 0;
    size_t root = strlen(mount) + strlen(controller);
    int least = 0;
    for (;;) {
        int quota = folder_quota(folder, *controller == '\0');
        if (quota && (!least || quota < least))
            least = quota;
        char *slash = strrchr(folder + root, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* Whether the comma-separated list has "cpu". */
static bool has_cpu(const char *controllers, size_t length) {
    for (size_t at = 0; at < length;) {
        size_t word = strcspn(controllers + at, ",:");
        if (word == 3 && memcmp(controllers + at, "cpu", 3) == 0)
            return true;
        at += word + 1;
    }
    return false;
}

int dd_cpus_quota(const char *list, const char *mount) {
    if (strlen(mount) > PATH_BYTES)
        return 0;
    FILE *file = fopen(list, "re");
    if (!file)
        return 0;
    int least = 0;
    char line[LINE_BYTES]; /* "0::/group" (version 2) or "4:cpu,cpuacct:/group" */
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        controllers++;
        int quota = 0;
        if (group == controllers)
            quota = walk_quota(mount, "", group + 1);
        else if (has_cpu(controllers, (size_t)(group - controllers)))
            quota = walk_quota(mount, "/cpu", group + 1);
        if (quota && (!least || quota < least))
            least = quota;
    }
    fclose(file);
    return least;
}

int dd_cpus_allowed(void) {
    int cpus = 0;
#ifdef __linux__
    cpu_set_t set; /* fails on machines of more than 1024 CPUs; sysconf() then answers */
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = CPU_COUNT(&set);
#endif
    if (cpus < 1)
        cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus < 1)
        cpus = 1;
    int quota = dd_cpus_quota("/proc/self/cgroup", "/sys/fs/cgroup");
    return quota && quota < cpus ? quota : cpus;
}
