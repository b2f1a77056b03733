/* Threads that share the items of a phase. The thread that calls can finish a phase alone: nobody waits for a sleeper. */
#ifndef POOL_H
#define POOL_H

#include <stdint.h>

typedef struct Pool Pool;
typedef void Work(void *context, int64_t item, int32_t thread);

Pool *pool_new(int32_t threads);
void pool_run(Pool *pool, Work *work, void *context, int64_t items);
int32_t pool_threads(const Pool *pool);
void pool_free(Pool *pool);

#endif
