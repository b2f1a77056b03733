#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define pause_briefly() _mm_pause()
#else
#define pause_briefly() ((void)0)
#endif

#define SPINS 4000 /* looks at the word before a worker sleeps: some 50 microseconds */

/* One atomic word is the whole state of a phase: its number (16 bits), how many items it has (24) and how many are claimed
 * (24). Whoever adds 1 to it gets an item of the phase that the word then names, so a late worker cannot take part in a
 * phase that is over. */
struct Pool {
    _Atomic uint64_t word;
    _Atomic int64_t done;
    Work *work;
    void *context;
    int32_t threads, started;
    _Atomic int32_t sleepers, leaving;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *handles;
};

#define NUMBER(word) ((word) >> 48)
#define ITEMS(word)  ((word) >> 24 & 0xffffff)
#define NEXT(word)   ((word) & 0xffffff)

static void take_part(Pool *pool, int32_t thread) {
    for (;;) {
        uint64_t word = atomic_load_explicit(&pool->word, memory_order_acquire);
        if (NEXT(word) >= ITEMS(word)) return;
        if (!atomic_compare_exchange_weak_explicit(&pool->word, &word, word + 1, memory_order_acq_rel, memory_order_relaxed))
            continue;
        pool->work(pool->context, (int64_t)NEXT(word), thread);
        atomic_fetch_add_explicit(&pool->done, 1, memory_order_release);
    }
}

typedef struct {
    Pool *pool;
    int32_t thread;
} Start;

static void *worker(void *argument) {
    Start start = *(Start *)argument;
    Pool *pool = start.pool;
    free(argument);
    uint64_t seen = 0;
    for (;;) {
        int32_t spins = 0;
        while (NUMBER(atomic_load_explicit(&pool->word, memory_order_acquire)) == seen && !atomic_load(&pool->leaving)) {
            if (++spins < SPINS) {
                pause_briefly();
                continue;
            }
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers, 1);
            while (NUMBER(atomic_load(&pool->word)) == seen && !atomic_load(&pool->leaving))
                pthread_cond_wait(&pool->wake, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        if (atomic_load(&pool->leaving)) return NULL;
        seen = NUMBER(atomic_load_explicit(&pool->word, memory_order_acquire));
        take_part(pool, start.thread);
    }
}

Pool *pool_new(int32_t threads) {
    Pool *pool = calloc(1, sizeof(Pool));
    if (!pool) return NULL;
    pool->threads = threads;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->handles = calloc(threads, sizeof(pthread_t));
    for (int32_t i = 1; pool->handles && i < threads; i++) { /* a thread that cannot be made is done without */
        Start *start = malloc(sizeof(Start));
        if (!start) break;
        *start = (Start){pool, i};
        if (pthread_create(&pool->handles[pool->started], NULL, worker, start)) {
            free(start);
            break;
        }
        pool->started++;
    }
    return pool;
}

void pool_run(Pool *pool, Work *work, void *context, int64_t items) {
    const int64_t most = 0xffffff;
    if (items <= 1 || !pool->started) {
        for (int64_t i = 0; i < items; i++) work(context, i, 0);
        return;
    }
    if (items > most) abort(); /* callers make chunks */
    pool->work = work;
    pool->context = context;
    atomic_store(&pool->done, 0);
    uint64_t number = (NUMBER(atomic_load(&pool->word)) + 1) & 0xffff;
    atomic_store(&pool->word, number << 48 | (uint64_t)items << 24);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    take_part(pool, 0);
    for (int32_t spins = 0; atomic_load_explicit(&pool->done, memory_order_acquire) < items; spins++) {
        if (spins < SPINS)
            pause_briefly();
        else
            sched_yield();
    }
}

int32_t pool_threads(const Pool *pool) { return pool->threads; }

void pool_free(Pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->leaving, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->handles[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
    free(pool->handles);
    free(pool);
}
