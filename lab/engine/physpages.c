/* Preloaded into ggml-rpc-server: a machine of R1LAB_MEMORY_MIB, so that llama.cpp sees a
 * device of that size. The server reads its memory with sysconf and from nowhere else. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

long sysconf(int name) {
    static long (*real)(int);
    const char *mib = getenv("R1LAB_MEMORY_MIB");
    if (!real) {
        real = (long (*)(int)) dlsym(RTLD_NEXT, "sysconf");
    }
    if (mib && (name == _SC_PHYS_PAGES || name == _SC_AVPHYS_PAGES)) {
        return atol(mib) * 1024 * 1024 / real(_SC_PAGESIZE);
    }
    return real(name);
}
