/* Lists of spans, and the alignment rule of disks. Owned by one reactor. */
#include "mem/iobuf.h"

#include <errno.h>

/* NVMe's memory page size as hosts set it (CC.MPS = 0). */
#define PRP_PAGE_BYTES 4096u

void sl_iobuf_fini(struct sl_iobuf *iobuf)
{
    for (unsigned i = 0; i < iobuf->span_count; i++)
        sl_buf_unref(iobuf->owners[i]);
    sl_iobuf_init(iobuf);
}

static bool continues(const struct sl_iobuf *iobuf, const struct sl_span *span,
                      const struct sl_buf *owner)
{
    if (iobuf->span_count == 0)
        return false;
    const struct sl_span *last = &iobuf->spans[iobuf->span_count - 1];
    return last->data + last->length_bytes == span->data && last->region == span->region &&
           iobuf->owners[iobuf->span_count - 1] == owner;
}

static int append(struct sl_iobuf *iobuf, struct sl_span span, struct sl_buf *owner)
{
    if (span.length_bytes == 0)
        return 0;
    if (span.length_bytes > UINT32_MAX - iobuf->length_bytes)
        return -EINVAL;
    if (continues(iobuf, &span, owner)) {
        iobuf->spans[iobuf->span_count - 1].length_bytes += span.length_bytes;
    } else {
        if (iobuf->span_count == SL_IOBUF_SPANS_MAX)
            return -ENOSPC;
        iobuf->spans[iobuf->span_count] = span;
        iobuf->owners[iobuf->span_count] = owner != NULL ? sl_buf_ref(owner) : NULL;
        iobuf->span_count++;
    }
    iobuf->length_bytes += span.length_bytes;
    return 0;
}

int sl_iobuf_append_buf(struct sl_iobuf *iobuf, struct sl_buf *buf, uint32_t offset_bytes,
                        uint32_t length_bytes)
{
    if (offset_bytes > buf->length_bytes || length_bytes > buf->length_bytes - offset_bytes)
        return -EINVAL;
    return append(iobuf, sl_buf_span(buf, offset_bytes, length_bytes), buf);
}

int sl_iobuf_append_span(struct sl_iobuf *iobuf, struct sl_span span)
{
    return append(iobuf, span, NULL);
}

/* Back to its first `span_count` spans, the last of them `last_bytes` long. */
static void take_back(struct sl_iobuf *iobuf, unsigned span_count, uint32_t last_bytes,
                      uint32_t length_bytes)
{
    while (iobuf->span_count > span_count)
        sl_buf_unref(iobuf->owners[--iobuf->span_count]);
    if (span_count > 0)
        iobuf->spans[span_count - 1].length_bytes = last_bytes;
    iobuf->length_bytes = length_bytes;
}

int sl_iobuf_append_slice(struct sl_iobuf *iobuf, const struct sl_iobuf *from,
                          uint32_t offset_bytes, uint32_t length_bytes)
{
    if (offset_bytes > from->length_bytes || length_bytes > from->length_bytes - offset_bytes)
        return -EINVAL;
    unsigned span_count = iobuf->span_count;
    uint32_t last_bytes = span_count > 0 ? iobuf->spans[span_count - 1].length_bytes : 0;
    uint32_t before_bytes = iobuf->length_bytes;
    for (unsigned i = 0; length_bytes > 0; i++) { /* `from` may be `iobuf` */
        struct sl_span span = from->spans[i];
        if (offset_bytes >= span.length_bytes) {
            offset_bytes -= span.length_bytes;
            continue;
        }
        span.data += offset_bytes;
        span.length_bytes = sl_min(span.length_bytes - offset_bytes, length_bytes);
        offset_bytes = 0;
        int error = append(iobuf, span, from->owners[i]);
        if (error < 0) {
            take_back(iobuf, span_count, last_bytes, before_bytes);
            return error;
        }
        length_bytes -= span.length_bytes;
    }
    return 0;
}

bool sl_iov_is_prp(const struct sl_span *spans, unsigned span_count)
{
    uint64_t total_bytes = 0;
    for (unsigned i = 0; i < span_count; i++) {
        uintptr_t start = (uintptr_t)spans[i].data;
        bool first = i == 0;
        bool last = i + 1 == span_count;
        if (spans[i].length_bytes == 0 || !sl_is_aligned(start, first ? 4 : PRP_PAGE_BYTES))
            return false;
        if (!last && !sl_is_aligned(start + spans[i].length_bytes, PRP_PAGE_BYTES))
            return false;
        total_bytes += spans[i].length_bytes;
    }
    return sl_is_aligned(total_bytes, 4);
}
