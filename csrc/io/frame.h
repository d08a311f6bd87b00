/* Frames: header and payload, put together and cut out of a growing buffer. No Python.h, so that it
 * can be fuzzed alone. */
#ifndef EXECNET_FRAME_H
#define EXECNET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FRAME_HEADER = 9 };

/* Bytes as they were read: start..end are not yet cut, end..capacity is free. */
typedef struct {
    char *bytes;
    size_t start;
    size_t end;
    size_t capacity;
} FrameBuffer;

typedef struct {
    int code;
    int32_t channel;
    size_t size;         /* of the whole payload */
    const char *payload; /* in the buffer, valid until the buffer changes */
    size_t present;      /* bytes of the payload that are in the buffer */
} Frame;

typedef enum {
    FRAME_WHOLE,   /* header and payload are in the buffer */
    FRAME_PARTIAL, /* the header is, the payload is not all there */
    FRAME_NONE,    /* not even the header */
    FRAME_INVALID, /* this is no header */
} FrameOutcome;

/* Write a header to the first FRAME_HEADER bytes of `to`. */
void frame_put_header(char *to, int code, int32_t channel, int32_t size);

/* Look at the frame that comes next; nothing is consumed. */
FrameOutcome frame_peek(const FrameBuffer *buffer, Frame *frame);

/* Consume the frame that frame_peek found, as far as it is there. */
void frame_consume(FrameBuffer *buffer, const Frame *frame);

/* Make at least `room` bytes free after end; false if there is no memory, the buffer is unchanged
 * then. */
bool frame_reserve(FrameBuffer *buffer, size_t room);

void frame_release(FrameBuffer *buffer);

#endif
