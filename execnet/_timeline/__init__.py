"""The timeline of a run: what every gateway did when, on both sides.

    a worker's notes                      our notes of the same gateway
    script/timeline.py, there             script/timeline.py, here
        a few batches a second, as items      │
                ▼                             ▼
    recorder: one thread: clocks aligned (clocks), items joined (arrows), lines for a file (trace)

    python -m execnet timeline FILE: the file read (trace), as a table (summary) and a page (page, page.html)

Nothing here is imported unless EXECNET_TIMELINE is set, or the command is run.
"""
