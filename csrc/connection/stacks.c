/* The answer to who asks for the stacks of all threads while no Python code can give it.

   A STATUS message with a payload is a question to Python code. Who reads it starts a thread that
   waits for the GIL to run that, sets the sentinel's alarm, and reads on. Who of the two comes
   first claims the question and answers it. The sentinel tells which tasks run, which thread has
   the GIL, and the stacks of all threads as faulthandler writes them, from a copy of the process.
 */
#include "connection/stacks.h"

#include "connection/sending.h"
#include "connection/tasks.h"
#include "io/snapshot.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    /* How long Python code has: others give the GIL away every five milliseconds. */
    PATIENCE_MS = 25,
    /* And from when it has begun: it may lose the GIL. */
    AT_WORK_MS = 60,
    COPY_MS = 2000,
    /* How long the sentinel, who has other duties, stays with an answer that nobody takes. */
    SEND_MS = 1000,
    LOOK_EVERY_MS = 5,
    /* So many messages are looked through for a question that is not the first. */
    LOOK_BEHIND = 4,
    MOST = 256 * 1024,
    MOST_OF_TASKS = 16 * 1024,
    /* With what is around it, no more than a pipe takes that can be written to. */
    PIECE = 3 * 1024,
};

/* The connection's and its thread's; freed by the last. */
struct Question {
    atomic_int owners;
    Mutex lock;                   /* guards the next */
    ConnectionObject *connection; /* NULL: it is gone */
    int32_t channel;
    size_t size;
    char payload[];
};

/* Send it when that takes no waiting. */
static bool
send_when_possible(ConnectionObject *connection, struct iovec piece, int64_t deadline)
{
    bool left;

    while (!send_now(connection, &piece, &left)) {
        if (fdio_now() >= deadline) {
            return false;
        }
        (void)poll(NULL, 0, LOOK_EVERY_MS);
    }
    return true;
}

/* ---- asking Python code ---- */

/* Whether the question is the caller's to answer: nobody else does. */
static bool
claim(ConnectionObject *connection, int32_t channel)
{
    return atomic_compare_exchange_strong(&connection->asked, &channel, 0);
}

/* With the GIL: the messages that answer, in one piece; NULL where Python code fails. */
static PyObject *
make_answer(ConnectionObject *connection, const Question *question)
{
    char header[FRAME_HEADER], end[FRAME_HEADER];
    PyObject *gateway = PyObject_GetAttrString(connection->factory, "gateway");
    PyObject *payload = NULL, *answer = NULL;

    if (gateway != NULL) {
        payload = PyObject_CallMethod(gateway, "_answer", "y#", question->payload,
                                      (Py_ssize_t)question->size);
        Py_DECREF(gateway);
    }
    if (payload != NULL && PyBytes_CheckExact(payload)) {
        frame_put_header(header, MESSAGE_CHANNEL_DATA, question->channel,
                         (int32_t)PyBytes_GET_SIZE(payload));
        frame_put_header(end, MESSAGE_CHANNEL_CLOSE, question->channel, 0);
        answer = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(payload) + 2 * FRAME_HEADER);
    }
    if (answer != NULL) {
        char *to = PyBytes_AS_STRING(answer);
        memcpy(to, header, FRAME_HEADER);
        memcpy(to + FRAME_HEADER, PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload));
        memcpy(to + PyBytes_GET_SIZE(answer) - FRAME_HEADER, end, FRAME_HEADER);
    }
    Py_XDECREF(payload);
    return answer;
}

/* The question is claimed when there is an answer, and nothing after that takes the GIL: this
   thread may lose it for ever in between. */
static void
answer_in_python(ConnectionObject *connection, const Question *question)
{
    if (connection->factory == NULL || atomic_load(&connection->asked) != question->channel) {
        return;
    }
    if (connection->sentinel != NULL) {
        sentinel_call_in(connection->sentinel, AT_WORK_MS);
    }
    PyObject *answer = make_answer(connection, question);
    if (answer == NULL) {
        PyErr_WriteUnraisable(connection->factory);
        return;
    }
    struct iovec piece = {PyBytes_AS_STRING(answer), (size_t)PyBytes_GET_SIZE(answer)};
    Py_BEGIN_ALLOW_THREADS
        if (claim(connection, question->channel) &&
            !send_when_possible(connection, piece, fdio_now() + SEND_MS)) {
            send_soon_without_gil(connection, MESSAGE_CHANNEL_CLOSE, question->channel);
        }
    Py_END_ALLOW_THREADS
    Py_DECREF(answer);
}

static void
let_go(Question *question)
{
    if (question != NULL && atomic_fetch_sub(&question->owners, 1) == 1) {
        free(question);
    }
}

/* With the GIL: a reference to the connection; NULL: it is gone, or about to be. */
static ConnectionObject *
connection_of(Question *question)
{
    PyObject *connection = NULL;

    mutex_lock(&question->lock);
    if (question->connection != NULL) {
        (void)PyWeakref_GetRef(question->connection->itself, &connection);
    }
    mutex_unlock(&question->lock);
    return (ConnectionObject *)connection;
}

/* A thread of its own waits for the GIL, however long: who reads goes on, and can be asked again.
 */
static void *
ask_python(void *argument)
{
    Question *question = argument;
    PyGILState_STATE gil = PyGILState_Ensure();
    ConnectionObject *connection = connection_of(question);

    if (connection != NULL) {
        let_go(atomic_exchange(&connection->question, NULL));
        answer_in_python(connection, question);
        Py_DECREF(connection);
    }
    PyGILState_Release(gil);
    let_go(question);
    return NULL;
}

/* Whether Python code is being asked. */
static bool
start_asking(ConnectionObject *connection, const Frame *frame)
{
    Question *question = malloc(sizeof *question + frame->size);
    pthread_t thread;
    sigset_t all, before;

    if (question == NULL) {
        return false;
    }
    atomic_init(&question->owners, 2);
    mutex_init(&question->lock);
    question->connection = connection;
    question->channel = frame->channel;
    question->size = frame->size;
    memcpy(question->payload, frame->payload, frame->size);
    atomic_store(&connection->question, question);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, ask_python, question);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        atomic_store(&connection->question, NULL);
        free(question);
        return false;
    }
    (void)pthread_detach(thread);
    return true;
}

bool
stacks_are_partly_asked_for(const ConnectionObject *connection)
{
    Frame frame;

    return connection->sentinel != NULL && connection->broken == BROKEN_NOT &&
           connection->large.bytes == NULL &&
           frame_peek(&connection->buffer, &frame) == FRAME_PARTIAL &&
           frame.code == MESSAGE_STATUS && frame.size > 0 && frame.size < MOST;
}

bool
stacks_were_told(ConnectionObject *connection, int32_t channel)
{
    for (int i = 0; i < MOST_FOUND; i++) {
        if (atomic_load(&connection->found[i]) == channel) {
            return true;
        }
    }
    return false;
}

static void
note_found(ConnectionObject *connection, int32_t channel)
{
    unsigned at = atomic_fetch_add(&connection->founds, 1) % MOST_FOUND;

    atomic_store(&connection->found[at], channel);
}

/* One question at a time: another one is answered within the sentinel's times. */
static void
ask(ConnectionObject *connection, const Frame *frame)
{
    if (stacks_were_told(connection, frame->channel)) {
        return;
    }
    while (atomic_load(&connection->asked) != 0) {
        (void)poll(NULL, 0, LOOK_EVERY_MS);
    }
    atomic_store(&connection->asked, frame->channel);
    bool is_asking = atomic_load(&connection->question) == NULL && start_asking(connection, frame);
    sentinel_call_in(connection->sentinel, is_asking ? PATIENCE_MS : 0);
}

/* Behind what needs the GIL first, where the question is left. */
static void
ask_behind(ConnectionObject *connection)
{
    FrameBuffer behind = connection->buffer;
    Frame frame;

    for (int i = 0; i < LOOK_BEHIND && frame_peek(&behind, &frame) == FRAME_WHOLE; i++) {
        if (frame.code == MESSAGE_STATUS && frame.size > 0 &&
            !stacks_were_told(connection, frame.channel)) {
            ask(connection, &frame);
            note_found(connection, frame.channel);
        }
        behind.start += FRAME_HEADER + frame.size;
    }
}

bool
stacks_ask(ConnectionObject *connection)
{
    Frame frame;
    bool asks = false;

    if (connection->large.bytes != NULL) {
        return false;
    }
    while (frame_peek(&connection->buffer, &frame) == FRAME_WHOLE && frame.code == MESSAGE_STATUS &&
           frame.size > 0) {
        ask(connection, &frame);
        frame_consume(&connection->buffer, &frame);
        asks = true;
    }
    ask_behind(connection);
    return asks && connection->buffer.end == connection->buffer.start;
}

/* ---- looking at the threads ---- */

#ifdef THREADS_DUMP_IS_FAULTHANDLERS

/* What faulthandler.register() installs writes the stacks without the GIL. It is called as a
   function, in the copy, whose descriptor 2 is the way to us: the signal stays the program's. */
int
stacks_prepare(ConnectionObject *connection)
{
    struct sigaction before, installed;
    int number = SIGRTMAX;

    if (connection->dump_threads != NULL) {
        return 0;
    }
    if (sigaction(number, NULL, &before) < 0 || (before.sa_flags & SA_SIGINFO) != 0 ||
        before.sa_handler != SIG_DFL) {
        return 0; /* The program has a use for it. */
    }
    PyObject *faulthandler = PyImport_ImportModule("faulthandler");
    PyObject *done = faulthandler == NULL ? NULL
                                          : PyObject_CallMethod(faulthandler, "register", "iiii",
                                                                number, STDERR_FILENO, 1, 0);
    Py_XDECREF(faulthandler);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    if (sigaction(number, &before, &installed) == 0) {
        connection->dump_signal = number;
        connection->dump_threads = installed.sa_handler;
    }
    return 0;
}

static bool
dump_threads(ConnectionObject *connection, int fd)
{
    if (connection->dump_threads == NULL || dup2(fd, STDERR_FILENO) < 0) {
        return false;
    }
    connection->dump_threads(connection->dump_signal);
    return true;
}

#else

int
stacks_prepare(ConnectionObject *connection)
{
    (void)connection;
    return 0;
}

static bool
dump_threads(ConnectionObject *connection, int fd)
{
    (void)connection;
    return threads_dump(fd);
}

#endif

static void
say(int fd, const char *text)
{
    (void)!write(fd, text, strlen(text));
}

/* In the copy. */
static void
tell_of_threads(int fd, void *argument)
{
    char line[64];
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Main());

    for (; thread != NULL; thread = PyThreadState_Next(thread)) {
        if (thread_has_gil(thread)) {
            (void)snprintf(line, sizeof line, "The GIL: thread 0x%016lx\n", thread->thread_id);
            say(fd, line);
        }
    }
    say(fd, "\n");
    if (!dump_threads(argument, fd)) {
        say(fd, "Where the threads stand is not known: this version of Python has to be asked "
                "before.\n");
    }
}

static size_t
describe(ConnectionObject *connection, char *text)
{
    size_t size = (size_t)snprintf(text, MOST,
                                   "Process %ld: Python code did not answer within %d "
                                   "milliseconds, so this was found from outside.\n",
                                   (long)getpid(), (int)PATIENCE_MS);

    size += tasks_describe(connection, text + size, MOST_OF_TASKS);
    return size + snapshot_take(tell_of_threads, connection, text + size, MOST - size, COPY_MS);
}

/* ---- answering ---- */

/* The text as the values of several messages, each a str, then CHANNEL_CLOSE. */
static void
send_text(ConnectionObject *connection, int32_t channel, const char *text, size_t size)
{
    char message[FRAME_HEADER + 5 + PIECE + 1];
    int64_t deadline = fdio_now() + SEND_MS;

    for (size_t sent = 0, part; sent < size; sent += part) {
        part = size - sent < PIECE ? size - sent : PIECE;
        frame_put_header(message, MESSAGE_CHANNEL_DATA, channel, (int32_t)(5 + part + 1));
        message[FRAME_HEADER] = OP_PY3STRING;
        wire_put_int4(message + FRAME_HEADER + 1, (int32_t)part);
        memcpy(message + FRAME_HEADER + 5, text + sent, part);
        message[FRAME_HEADER + 5 + part] = OP_STOP;
        struct iovec piece = {message, FRAME_HEADER + 5 + part + 1};
        if (!send_when_possible(connection, piece, deadline)) {
            break;
        }
    }
    frame_put_header(message, MESSAGE_CHANNEL_CLOSE, channel, 0);
    if (!send_when_possible(connection, (struct iovec){message, FRAME_HEADER}, deadline)) {
        send_soon_without_gil(connection, MESSAGE_CHANNEL_CLOSE, channel);
    }
}

static void
answer(ConnectionObject *connection, int32_t channel)
{
    /* Not malloc(): who is stuck may have its lock. */
    char *text = mmap(NULL, MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (text == MAP_FAILED) {
        return;
    }
    size_t size = describe(connection, text);
    atomic_store(&connection->answers, true);
    send_text(connection, channel, text, size);
    atomic_store(&connection->answers, false);
    (void)munmap(text, MOST);
}

void
stacks_answer(void *argument)
{
    ConnectionObject *connection = argument;
    int32_t channel = atomic_load(&connection->asked);

    if (channel != 0 && claim(connection, channel)) {
        answer(connection, channel);
    }
}

/* ---- a question that nobody reads ---- */

/* The channel of the next question from `at` on, among bytes that begin and end anywhere; 0: there
   is none. */
static int32_t
next_question(const char *bytes, size_t size, size_t *at)
{
    static const char text[] = STACKS_QUESTION;
    enum { BEFORE = FRAME_HEADER + 5 };

    while (*at + BEFORE + sizeof text - 1 <= size) {
        const char *header = bytes + (*at)++;
        if (memcmp(header + BEFORE, text, sizeof text - 1) == 0 && header[0] == MESSAGE_STATUS &&
            header[FRAME_HEADER] == OP_PY3STRING &&
            wire_get_int4(header + 5) == wire_get_int4(header + FRAME_HEADER + 1) + 6) {
            return wire_get_int4(header + 1);
        }
    }
    return 0;
}

/* Who should read waits for the GIL, to do something else first. */
void
stacks_search(void *argument, int read_fd)
{
    ConnectionObject *connection = argument;
    char *bytes = mmap(NULL, MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (bytes == MAP_FAILED) {
        return;
    }
    size_t size = fdio_peek(read_fd, connection->writer.is_socket, bytes, MOST), at = 0;
    int32_t channels[MOST_FOUND];
    int count = 0;
    while (count < MOST_FOUND && (channels[count] = next_question(bytes, size, &at)) != 0) {
        if (!stacks_were_told(connection, channels[count])) {
            note_found(connection, channels[count++]);
        }
    }
    (void)munmap(bytes, MOST);
    for (int i = 0; i < count; i++) {
        answer(connection, channels[i]);
    }
}

/* ---- ends ---- */

void
stacks_release(ConnectionObject *connection)
{
    Question *question = atomic_exchange(&connection->question, NULL);

    if (question != NULL) {
        mutex_lock(&question->lock);
        question->connection = NULL;
        mutex_unlock(&question->lock);
    }
    let_go(question);
}
