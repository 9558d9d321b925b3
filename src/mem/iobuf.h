/*
 * A list of spans that can be cut, joined and shared without copying. Each span borrows foreign
 * memory or holds a reference on a buffer of ours. Owned by one reactor.
 */
#ifndef SL_MEM_IOBUF_H
#define SL_MEM_IOBUF_H

#include "mem/memory.h"

/* 1 MiB in pieces no smaller than 64 KiB, plus the cut ends at both sides. */
#define SL_IOBUF_SPANS_MAX 18

struct sl_iobuf {
    uint32_t length_bytes;
    uint16_t span_count;
    struct sl_span spans[SL_IOBUF_SPANS_MAX];
    struct sl_buf *owners[SL_IOBUF_SPANS_MAX]; /* NULL = borrowed */
};

static inline void sl_iobuf_init(struct sl_iobuf *iobuf)
{
    iobuf->length_bytes = 0;
    iobuf->span_count = 0;
}
/* Unrefs every owner. */
void sl_iobuf_fini(struct sl_iobuf *iobuf);
/* All or nothing; what is appended in all stays below 4 GiB (else -EINVAL); nothing of length 0 is
 * kept. Refs `buf`. -ENOSPC: too many spans. -EINVAL: outside of the buffer. */
int sl_iobuf_append_buf(struct sl_iobuf *iobuf, struct sl_buf *buf, uint32_t offset_bytes,
                        uint32_t length_bytes);
/* Borrows. A span that continues the last one is merged into it. */
int sl_iobuf_append_span(struct sl_iobuf *iobuf, struct sl_span span);
/* Appends [offset, offset + length) of `from` (which may be `iobuf`), sharing its owners. -EINVAL:
 * out of range. -ENOSPC: too many spans. */
int sl_iobuf_append_slice(struct sl_iobuf *iobuf, const struct sl_iobuf *from,
                          uint32_t offset_bytes, uint32_t length_bytes);

/* NVMe PRP rules (NVMe Base 2.0 §4.1.1; docs/architecture.md "Alignment"): the first piece starts
 * 4-byte aligned and ends on a page boundary unless it is the last; middle pieces are whole pages;
 * the last starts on a page boundary unless it is the first; the total length is a multiple of 4.
 * No piece is empty. No pieces at all obey. */
bool sl_iov_is_prp(const struct sl_span *spans, unsigned span_count);

#endif
