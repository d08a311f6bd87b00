"""``execnet timeline``: a recorded timeline as a page to look at, and as a table."""

from __future__ import annotations

from execnet._command import common
from execnet.script import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = "Make a page of the timeline that a program has recorded, and print where the time went."
EPILOG = """\
FILE is what EXECNET_TIMELINE=FILE has recorded, of a program that was killed, too. The page is one
file that needs no network; Perfetto and chrome://tracing open FILE itself. The table gives seconds
for each gateway: of its start, with a task that works, with tasks that all wait for items, and
without a task.

examples:
  EXECNET_TIMELINE=run.json python program.py
  {program} run.json"""


def main(program: str, arguments: Sequence[str]) -> int:
    """Run it and return the exit status."""
    parser = common.new_parser(program, DESCRIPTION, EPILOG.format(program=program))
    parser.add_argument("file", metavar="FILE", help="what was recorded")
    parser.add_argument("--output", metavar="PAGE", help="the page to write (default: FILE.html)")
    parser.add_argument("--picture", metavar="SVG", help="write a picture that does not move, too")
    parser.add_argument("--no-page", action="store_true", help="only print the table")
    options = parser.parse_args(arguments)

    from execnet._timeline import drawing, page, summary, trace

    try:
        events = trace.read(options.file)
        found = summary.gateways(events)
        if not options.no_page:
            path = options.output or f"{options.file}.html"
            with open(path, "w", encoding="utf-8", errors="replace") as file:
                file.write(page.page(events, found))
        if options.picture:
            with open(options.picture, "w", encoding="utf-8", errors="replace") as file:
                file.write(drawing.drawing(page.Picture(events).data()))
    except (OSError, ValueError) as error:
        common.complain(program, str(error))
        return common.FAILED
    command.write(summary.table(found))
    if not options.no_page:
        command.show(f"page: {path}")
    return 0
