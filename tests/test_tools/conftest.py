import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


@functools.cache
def load_tool(path: Path) -> ModuleType:
    """Import a script by its path: tools/ is not a package."""
    name = f'tool_{path.stem}'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the processes of a pool look it up by name
    spec.loader.exec_module(module)
    return module
