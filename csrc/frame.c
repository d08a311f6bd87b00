/* Frames: header and payload, put together and cut out of a growing buffer. */
#include "frame.h"

#include <stdlib.h>
#include <string.h>

static void
put_int4(char *to, uint32_t bits)
{
    to[0] = (char)(bits >> 24);
    to[1] = (char)(bits >> 16);
    to[2] = (char)(bits >> 8);
    to[3] = (char)bits;
}

static int32_t
get_int4(const char *from)
{
    const unsigned char *at = (const unsigned char *)from;

    return (int32_t)((uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]);
}

void
frame_put_header(char *to, int code, int32_t channel, int32_t size)
{
    to[0] = (char)code;
    put_int4(to + 1, (uint32_t)channel);
    put_int4(to + 5, (uint32_t)size);
}

FrameOutcome
frame_peek(const FrameBuffer *buffer, Frame *frame)
{
    size_t there = buffer->end - buffer->start;

    if (there < FRAME_HEADER) {
        return FRAME_NONE;
    }
    const char *header = buffer->bytes + buffer->start;
    int32_t size = get_int4(header + 5);
    frame->code = (unsigned char)header[0];
    if (frame->code >= MESSAGE_CODES || size < 0) {
        return FRAME_INVALID;
    }
    frame->channel = get_int4(header + 1);
    frame->size = (size_t)size;
    frame->payload = header + FRAME_HEADER;
    frame->present = there - FRAME_HEADER < frame->size ? there - FRAME_HEADER : frame->size;
    return frame->present == frame->size ? FRAME_WHOLE : FRAME_PARTIAL;
}

void
frame_consume(FrameBuffer *buffer, const Frame *frame)
{
    buffer->start += FRAME_HEADER + frame->present;
    if (buffer->start == buffer->end) {
        buffer->start = buffer->end = 0;
    }
}

bool
frame_reserve(FrameBuffer *buffer, size_t room)
{
    size_t there = buffer->end - buffer->start;

    if (buffer->capacity - buffer->end >= room) {
        return true;
    }
    if (room > SIZE_MAX - there) {
        return false;
    }
    if (buffer->capacity < there + room) {
        char *bytes = malloc(there + room);
        if (bytes == NULL) {
            return false;
        }
        if (there > 0) {
            memcpy(bytes, buffer->bytes + buffer->start, there);
        }
        free(buffer->bytes);
        buffer->bytes = bytes;
        buffer->capacity = there + room;
    } else {
        memmove(buffer->bytes, buffer->bytes + buffer->start, there);
    }
    buffer->start = 0;
    buffer->end = there;
    return true;
}

void
frame_release(FrameBuffer *buffer)
{
    free(buffer->bytes);
    memset(buffer, 0, sizeof *buffer);
}
