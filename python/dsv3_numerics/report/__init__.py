"""Reports: everything that is written from results, whatever they are results of.

Lives here: `text` (names and figures as text), `tables` (a table, for Markdown and for the terminal), `page`
(sections of a report), `files` (CSV and JSON), `drawing` and `charts` (plots), `provenance` (versions and
machine), `running` (threads, time and interruption of a run), and `Progress`, the callback that all long work
takes. Not here: any result; a room that has results imports this one.
"""

from .._progress import Progress
from .page import ReportTable

__all__ = ["Progress", "ReportTable"]
