import functools
import importlib.util
import logging
import os
import runpy
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ..conftest import ROOT

TOOLS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'tools').rglob('*.py'))


@functools.cache
def load_tool(path: Path) -> ModuleType:
    """Import a script by its path, once: tools/ is not a package."""
    name = f'tool_{path.stem}'
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the processes of a pool look it up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a tool in this process as ``python TOOL ARGS`` does; only imports take long.

    Returns its exit status and what it printed to stdout and stderr.
    """
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    handlers = {number: signal.getsignal(number) for number in numbers}
    environ = dict(os.environ)

    # mmengine's loggers keep the stderr of an earlier test, which is closed.
    monkeypatch.setattr(logging, 'raiseExceptions', False)

    def main(tool, *argv):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, argv)])
        monkeypatch.syspath_prepend((ROOT / tool).parent)  # as for any script
        with pytest.raises(SystemExit) as info:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        out, err = capsys.readouterr()
        if isinstance(info.value.code, str):
            return 1, out, err + info.value.code
        return info.value.code or 0, out, err

    yield main
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environ)
