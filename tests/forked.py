"""What the processes of the fixture run_script begin with; it imports no test."""

import contextlib
import os
import runpy
import sys

with contextlib.suppress(ImportError):  # mmengine is missing
    from mmengine.config import config

    # mmengine formats the whole config by yapf for its log, for its dump and for every
    # checkpoint, which takes more than half of the time of a short training.
    config.FormatCode = lambda code, **_: (code, True)


def run_as_main(path, args, cwd, environ, log):
    """Be ``python PATH ARGS`` in this process; what it prints goes to a file."""
    with open(log, 'w') as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.argv = [path, *args]
    paths = environ.get('PYTHONPATH', '').split(os.pathsep)
    sys.path[:0] = [os.path.dirname(path), *filter(None, paths)]
    runpy.run_path(path, run_name='__main__')
