/* How many threads this process may keep busy. */
#ifndef DD_BASE_CPUS_H
#define DD_BASE_CPUS_H

/* CPUs in the affinity mask, lowered by the cgroup's CPU quota (rounded up); at least 1. */
int dd_cpus_allowed(void);

/* The quota alone: the smallest, rounded up, over the groups of `list` (a file like
 * /proc/self/cgroup) and their parents under `mount` (like /sys/fs/cgroup), for versions 1 and 2;
 * 0 where there is none. */
int dd_cpus_quota(const char *list, const char *mount);

#endif
