/* STATUS is answered by the thread that reads, without the GIL: also a worker whose other threads
   are all stuck in C code tells what it is doing. The counts it tells are kept beside those that
   the GIL guards. */
#include "connection/status.h"

#include "connection/sending.h"

#include <poll.h>

enum { ANSWER_SIZE = 256 };

typedef struct {
    char bytes[ANSWER_SIZE];
    size_t size;
} Answer;

static void
put_op_int4(Answer *answer, char op, int32_t value)
{
    answer->bytes[answer->size++] = op;
    wire_put_int4(answer->bytes + answer->size, value);
    answer->size += 4;
}

static void
put_text(Answer *answer, const char *text)
{
    size_t length = strlen(text);

    put_op_int4(answer, OP_PY3STRING, (int32_t)length);
    memcpy(answer->bytes + answer->size, text, length);
    answer->size += length;
}

static void
put_count(Answer *answer, const char *name, int count)
{
    put_text(answer, name);
    put_op_int4(answer, OP_INT, count);
    answer->bytes[answer->size++] = OP_SETITEM;
}

/* The dict of doc/wire.rst, "Messages", after its header, then CHANNEL_CLOSE. */
static void
compose(ConnectionObject *connection, int32_t channel, Answer *answer)
{
    answer->size = FRAME_HEADER;
    answer->bytes[answer->size++] = OP_NEWDICT;
    put_count(answer, "numchannels", atomic_load(&connection->open_channels));
    put_count(answer, "numexecuting", atomic_load(&connection->running_tasks));
    put_text(answer, "execmodel");
    put_text(answer, connection->execmodel);
    answer->bytes[answer->size++] = OP_SETITEM;
    answer->bytes[answer->size++] = OP_STOP;
    frame_put_header(answer->bytes, MESSAGE_CHANNEL_DATA, channel,
                     (int32_t)(answer->size - FRAME_HEADER));
    frame_put_header(answer->bytes + answer->size, MESSAGE_CHANNEL_CLOSE, channel, 0);
    answer->size += FRAME_HEADER;
}

/* The sentinel, which has the turn to answer another question, leaves it soon. */
static bool
answer_now(ConnectionObject *connection, struct iovec *piece, bool *left)
{
    for (;;) {
        bool sentinel_answers = atomic_load(&connection->answers);
        if (send_now(connection, piece, left)) {
            return true;
        }
        if (!sentinel_answers) {
            return false;
        }
        (void)poll(NULL, 0, 1);
    }
}

void
status_answer(ConnectionObject *connection, bool *left)
{
    Frame frame;

    if (connection->execmodel[0] == '\0' || connection->large.bytes != NULL) {
        return;
    }
    while (frame_peek(&connection->buffer, &frame) == FRAME_WHOLE && frame.code == MESSAGE_STATUS &&
           frame.size == 0) {
        Answer answer;
        compose(connection, frame.channel, &answer);
        struct iovec piece = {answer.bytes, answer.size};
        if (!answer_now(connection, &piece, left)) {
            return;
        }
        frame_consume(&connection->buffer, &frame);
    }
}
