/* Frames: header and payload, put together and cut out of a growing buffer. */
#include "io/frame.h"

#include "wire.h"

#include <stdlib.h>
#include <string.h>

void
frame_put_header(char *to, int code, int32_t channel, int32_t size)
{
    to[0] = (char)code;
    wire_put_int4(to + 1, channel);
    wire_put_int4(to + 5, size);
}

FrameOutcome
frame_peek(const FrameBuffer *buffer, Frame *frame)
{
    size_t there = buffer->end - buffer->start;

    if (there < FRAME_HEADER) {
        return FRAME_NONE;
    }
    const char *header = buffer->bytes + buffer->start;
    int32_t size = wire_get_int4(header + 5);
    frame->code = (unsigned char)header[0];
    if (frame->code >= MESSAGE_CODES || size < 0) {
        return FRAME_INVALID;
    }
    frame->channel = wire_get_int4(header + 1);
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
