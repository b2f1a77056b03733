/* Which instruction sets there are, in this build and on this processor. */
#define _GNU_SOURCE
#include "kernels.h"

#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
typedef struct {
    unsigned a, b, c, d;
} Answer;

static Answer ask(unsigned leaf, unsigned part) {
    Answer answer = {0};
    if (!__get_cpuid_count(leaf, part, &answer.a, &answer.b, &answer.c, &answer.d)) return (Answer){0};
    return answer;
}

/* The registers that the system saves for us: bits of XCR0. */
static unsigned saved(void) {
    unsigned low, high;
    if (!(ask(1, 0).c >> 27 & 1)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int avx2(void) { return (saved() & 6) == 6 && ask(7, 0).b >> 5 & 1 && ask(1, 0).c >> 12 & 1; }
static int avxvnni(void) { return avx2() && ask(7, 0).a >= 1 && ask(7, 1).a >> 4 & 1; }
static int avx512(void) {
    Answer answer = ask(7, 0);
    unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;                                      /* F, DQ, BW, VL */
    return avx2() && (saved() & 0xe6) == 0xe6 && (answer.b & wanted) == wanted && answer.c >> 11 & 1; /* VNNI */
}

/* Linux gives the tiles' registers to a process that asks for them. */
static int amx(void) {
    Answer answer = ask(7, 0);
    if (!avx512() || !(answer.d >> 24 & 1) || !(answer.d >> 25 & 1) || (saved() & 0x60000) != 0x60000) return 0;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 0;
#endif
}
#endif

static int always(void) { return 1; }

#if defined(ENGINE_EMULATE)
#define IF_NOT_EMULATED(check) avx512
#else
#define IF_NOT_EMULATED(check) check
#endif

static const struct {
    const Kernels *kernels;
    int (*usable)(void);
} sets[] = {
/* best first */
#if defined(HAVE_AMX)
    {&kernels_amx, IF_NOT_EMULATED(amx)},
#endif
#if defined(HAVE_AVX512)
    {&kernels_avx512, avx512},
#endif
#if defined(HAVE_AVXVNNI)
    {&kernels_avxvnni, IF_NOT_EMULATED(avxvnni)},
#endif
#if defined(HAVE_AVX2)
    {&kernels_avx2, avx2},
#endif
    {&kernels_portable, always},
};
enum { SETS = sizeof sets / sizeof *sets };

const char *engine_sets(void) {
    static char names[128];
    names[0] = 0;
    for (int i = 0; i < SETS; i++)
        if (sets[i].usable()) {
            if (names[0]) strcat(names, " ");
            strcat(names, sets[i].kernels->name);
        }
    return names;
}

const Kernels *kernels_named(const char *name, char *error, int64_t room) {
    for (int i = 0; i < SETS; i++)
        if ((!name || !*name || !strcmp(name, sets[i].kernels->name)) && sets[i].usable()) return sets[i].kernels;
    snprintf(error, room, "there are no kernels %.40s on this machine; there are: %s", name, engine_sets());
    return 0;
}
