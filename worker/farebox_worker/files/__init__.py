"""The files of a run: the input lines, the output file, and the sidecar that ties a run to its batch.

Pure file logic. It knows no Redis, no event loop and no command line, and it never decides what to do next.

In: `source` opens it (`csv_table` reads rows), `content` knows it again, `members` takes a line apart, `template` and
`wording` add what the flags say, `lines` makes jobs of it, `summary` judges the whole file. Out: `destination` says
where answers go, `answers` makes a line, `output` appends it (`lock`, `durable`, `sidecar` keep it safe), `written`
finds again what it holds, `tally` sums it up, `failures_in` finds what can be retried, `csv_answers` and `export` write
it in other forms.
For millions of lines in little memory: `table`, `numbers`, `line_index`.
"""

from farebox_worker.files.answers import output_line
from farebox_worker.files.lines import Line, ResolvedModel, read_jobs
from farebox_worker.files.output import DiskFullError, OutputError, OutputFile, default_output
from farebox_worker.files.sidecar import Sidecar, sidecar_path
from farebox_worker.files.summary import Summary, bad_line_report, summarize

__all__ = [
    "DiskFullError",
    "Line",
    "OutputError",
    "OutputFile",
    "ResolvedModel",
    "Sidecar",
    "Summary",
    "bad_line_report",
    "default_output",
    "output_line",
    "read_jobs",
    "sidecar_path",
    "summarize",
]
