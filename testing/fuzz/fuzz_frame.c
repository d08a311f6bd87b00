/* A libFuzzer target for csrc/io/frame.c: a stream of frames, cut into pieces at any byte, gives the
   frames it gives in one piece; frame_put_header writes what frame_peek reads.

   Built and run by `make fuzz`. */
#include "io/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STREAM_MOST = 1024,
    FRAMES_MOST = STREAM_MOST / FRAME_HEADER,
};

typedef struct {
    int code;
    int32_t channel;
    size_t size;
    size_t got; /* bytes of the payload; fewer than size in the last frame only */
    uint64_t digest;
} Seen;

typedef struct {
    FrameBuffer buffer;
    bool take_partial; /* consume what is there of a payload and take the rest as it comes, as for
                          large ones */
    bool invalid;
    size_t missing; /* of such a payload */
    size_t count;
    Seen seen[FRAMES_MOST + 1];
} Cutter;

static void
check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "fuzz_frame: %s\n", what);
        abort();
    }
}

static void
add_payload(Seen *seen, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        seen->digest = (seen->digest ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3);
    }
    seen->got += count;
}

static void
cut(Cutter *cutter)
{
    Frame frame;
    FrameOutcome outcome;

    while ((outcome = frame_peek(&cutter->buffer, &frame)) == FRAME_WHOLE ||
           (outcome == FRAME_PARTIAL && cutter->take_partial)) {
        check(frame.size <= INT32_MAX, "a negative size was accepted");
        Seen *seen = &cutter->seen[cutter->count++];
        *seen = (Seen){.code = frame.code, .channel = frame.channel, .size = frame.size};
        add_payload(seen, frame.payload, frame.present);
        cutter->missing = frame.size - frame.present;
        frame_consume(&cutter->buffer, &frame);
        if (outcome == FRAME_PARTIAL) {
            return;
        }
    }
    cutter->invalid = outcome == FRAME_INVALID;
}

static void
feed(Cutter *cutter, const char *bytes, size_t count)
{
    size_t direct = count < cutter->missing ? count : cutter->missing;

    if (direct > 0) {
        add_payload(&cutter->seen[cutter->count - 1], bytes, direct);
        cutter->missing -= direct;
        bytes += direct;
        count -= direct;
    }
    if (count == 0 || cutter->invalid) {
        return;
    }
    check(frame_reserve(&cutter->buffer, count), "no memory");
    memcpy(cutter->buffer.bytes + cutter->buffer.end, bytes, count);
    cutter->buffer.end += count;
    cut(cutter);
}

/* Fed in pieces of `piece` bytes, but the first of `first`. */
static void
run(Cutter *cutter, const char *stream, size_t size, size_t first, size_t piece, bool take_partial)
{
    memset(cutter, 0, sizeof *cutter);
    cutter->take_partial = take_partial;
    feed(cutter, stream, first);
    for (size_t at = first; at < size; at += piece) {
        feed(cutter, stream + at, size - at < piece ? size - at : piece);
    }
    frame_release(&cutter->buffer);
}

static void
compare(const Cutter *whole, const Cutter *pieces)
{
    check(whole->count == pieces->count, "another number of frames");
    check(whole->invalid == pieces->invalid, "another opinion on the end");
    for (size_t i = 0; i < whole->count; i++) {
        const Seen *one = &whole->seen[i];
        const Seen *other = &pieces->seen[i];
        check(one->code == other->code && one->channel == other->channel &&
                  one->size == other->size,
              "another header");
        check(one->got == other->got && one->digest == other->digest, "another payload");
    }
}

/* Three bytes of input make a frame, so that few inputs are refused at once: code, channel, size.
 */
static size_t
compose(const uint8_t *data, size_t size, char *stream)
{
    size_t used = 0;

    for (; size >= 3 && used + FRAME_HEADER <= STREAM_MOST; data += 3, size -= 3) {
        char *header = stream + used;
        FrameBuffer buffer = {.bytes = header, .end = FRAME_HEADER, .capacity = FRAME_HEADER};
        Frame frame;
        int code = data[0] % (MESSAGE_CODES + 1); /* one of them is invalid */
        int32_t channel = (int32_t)((uint32_t)data[1] * 0x01010101);

        frame_put_header(header, code, channel, data[2]);
        FrameOutcome outcome = frame_peek(&buffer, &frame);
        if (code == MESSAGE_CODES) {
            check(outcome == FRAME_INVALID, "an invalid code was accepted");
        } else {
            check(outcome == (data[2] == 0 ? FRAME_WHOLE : FRAME_PARTIAL), "another outcome");
            check(frame.code == code && frame.channel == channel && frame.size == data[2],
                  "a header is not read as it was written");
        }
        used += FRAME_HEADER;
        for (int i = 0; i < data[2] && used < STREAM_MOST; i++) {
            stream[used++] = (char)(data[1] + i);
        }
    }
    return used;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Cutter whole;
    static Cutter pieces;
    char stream[STREAM_MOST];
    size_t used = size < STREAM_MOST ? size : STREAM_MOST;

    if (size > 0 && data[0] & 1) {
        used = compose(data + 1, size - 1, stream);
    } else {
        if (used > 0) {
            memcpy(stream, data, used); /* libFuzzer may give NULL and 0 */
        }
    }
    for (int take_partial = 0; take_partial <= 1; take_partial++) {
        run(&whole, stream, used, used, 1, take_partial);
        for (size_t first = 0; first < used; first++) {
            run(&pieces, stream, used, first, used, take_partial);
            compare(&whole, &pieces);
        }
        for (size_t piece = 1; piece <= FRAME_HEADER + 1; piece++) {
            run(&pieces, stream, used, 0, piece, take_partial);
            compare(&whole, &pieces);
        }
    }
    return 0;
}
