"""One stage of a run in a process of its own: python -m ultralong_hf.pipeline RUN STAGE."""

import sys

from ultralong_hf.errors import InputError, UltraLongError
from ultralong_hf.pipeline.jobs import do_job
from ultralong_hf.pipeline.run import open_run


def main() -> int:
    """Exit status 0, 2 for bad input, else 1; errors of ours are lines on stderr."""
    folder, name = sys.argv[1:]
    try:
        run = open_run(folder)
        do_job(run, run.stage(name))
    except UltraLongError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
