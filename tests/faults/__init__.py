"""Scripts that try a class of fault against the real command, case by case.

    python -m tests.faults.signals [--each N] [--first N] [WORD...]

tries all cases, or of these each N-th from one on, or those whose names hold a WORD. A line says
what was tried, how that ended and whether that is right; the last one counts what was tried and
what was found (`cases`). `signals`, `writes` and `places` start the command in processes of its own
(`bench`); `corruption`, `names` and `archives` call it in theirs (`inside`). What `corruption`
tries is in `damage` and `forgery`, what `archives` tries in `odd_archives`, `odd_images` and
`odd_weights`.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "support")]
