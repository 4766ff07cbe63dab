"""What may be in a checkpoint: objects that it builds, and the config that it holds.

A checkpoint is a pickle, and mmengine's checkpoints also hold the text of a config.
Both can be programs. Here, each of them is restricted to data.
"""

import ast
import copyreg
import pickle
import sys
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler


class _HistoryBuffer(HistoryBuffer):
    """Replaces mmengine's HistoryBuffer during unpickling, and is pickled as one.

    The file cannot call it, because numpy would allocate what nested lists ask for, and
    cannot give it other attributes or statistics than mmengine's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise pickle.UnpicklingError('log buffers are only loaded with their values')

    def __setstate__(self, state: Any) -> None:
        self._set_default_statistics()
        for name in ('max_length', '_log_history', '_count_history'):
            setattr(self, name, state[name])

    def __reduce__(self) -> Any:
        return copyreg.__newobj__, (HistoryBuffer,), self.__getstate__()  # type: ignore


class _OneCycle:
    """Replaces mmengine's OneCycleParamScheduler, of which only methods are pickled."""

    def __init__(self) -> None:
        raise pickle.UnpicklingError('a schedule is not what mmengine saves')


# mmengine's objects refer to these methods, which are pickled as getattr(class, name).
_METHODS: dict[type, dict[str, Any]] = {
    _HistoryBuffer: {
        name: getattr(HistoryBuffer, name) for name in ('min', 'max', 'mean', 'current')
    },
    _OneCycle: {
        name: getattr(OneCycleParamScheduler, name)
        for name in ('_annealing_cos', '_annealing_linear')
    },
}


def _pickled_method(obj: Any, name: str):
    """Replace ``getattr`` during unpickling, for the methods in ``_METHODS`` alone."""
    if isinstance(obj, type) and isinstance(name, str):
        method = _METHODS.get(obj, {}).get(name)
        if method is not None:
            return method
    raise pickle.UnpicklingError(
        f'the checkpoint asks for attribute {name!r} of {obj!r}, which mmengine never '
        'saves'
    )


# The dtypes of arrays in a checkpoint: plain numbers, in the machine's byte order
_DTYPES = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')


class _Dtype:
    """Replaces ``numpy.dtype`` during unpickling.

    A real dtype takes its flags from the file. With those of an object dtype, numpy
    would follow bytes of the file as pointers.
    """

    def __init__(self, code: str, align: Any = False, copy: Any = True) -> None:
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f'arrays of dtype {code!r} are not loaded')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in '|' + ('<' if sys.byteorder == 'little' else '>'):
            raise pickle.UnpicklingError(f'byte order {state[1]!r} is not loaded')


class _Array(np.ndarray):
    """Replaces ``numpy.ndarray`` during unpickling, and is pickled as one.

    The file cannot call it, because numpy would allocate whatever shape it asks for. It
    gets its values once, because numpy frees the old ones, which a tensor may share.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError('arrays are only loaded with their values')

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        is_known = isinstance(dtype, _Dtype) and isinstance(data, bytes)
        if not is_known or hasattr(self, 'is_loaded'):
            raise pickle.UnpicklingError('an array is not what numpy saves')
        self.is_loaded = True
        super().__setstate__((1, shape, dtype.dtype, is_fortran, data))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


def _reconstruct(cls: type, shape: tuple, code: bytes) -> np.ndarray:
    """Replace numpy's function of this name: return an array that gets values next."""
    return np.empty(0).view(_Array)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Replace numpy's ``multiarray.scalar``: return one number."""
    (number,) = np.frombuffer(data, dtype.dtype)
    return number


def _name(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'


def training_objects() -> list[Any]:
    """List what mmengine's trainings save beside weights, for weights-only loading.

    These are the one-cycle schedule and log buffers with their numpy arrays. numpy 1
    and 2 name the functions that rebuild arrays differently; both names are listed.
    """
    allowed: list[Any] = [
        (_HistoryBuffer, _name(HistoryBuffer)),
        (_OneCycle, _name(OneCycleParamScheduler)),
        (_pickled_method, 'builtins.getattr'),
        (_Dtype, 'numpy.dtype'),
        (_Array, 'numpy.ndarray'),
    ]
    for package in ('numpy._core', 'numpy.core'):
        allowed.append((_reconstruct, f'{package}.multiarray._reconstruct'))
        allowed.append((_scalar, f'{package}.multiarray.scalar'))
    return allowed


def require_plain_config(text: Any) -> None:
    """Check that a config only assigns plain values.

    mmengine runs the configs of a checkpoint as Python: ``meta['config']`` when it
    resumes, and ``meta['cfg']`` when an inferencer gets weights without a config.

    Raises:
        ValueError: The text is no config, or does something else; the error names the
            line and the part.
    """
    if not isinstance(text, str):
        raise ValueError(f'its config is not text but {type(text).__name__}')
    if '{{' in text:
        # mmengine replaces {{ $NAME:default }} in the text before it runs it.
        raise ValueError('its config is a template, with {{')
    names: set[str] = set()
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if (
                    name != '_base_'
                ):
                    foreign: ast.AST | None = _foreign(value, names)
                    names.add(name)
                case _:
                    foreign = statement
            if foreign is not None:
                raise ValueError(
                    f'line {statement.lineno} of its config does more than assign '
                    f'plain values: {ast.unparse(foreign).splitlines()[0][:80]}'
                )
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f'its config is not Python: {error}') from error


def _foreign(node: ast.expr, names: set[str]) -> ast.expr | None:
    """Return the first part of an expression that is no plain value, or None.

    Plain values are literals, earlier names, and what mmengine writes of them:
    ``dict(...)``, ``range(...)``, ``slice(...)``, ``set()``, ``inf`` and ``nan``.
    """
    parts: list[ast.expr] = []
    match node:
        case ast.Constant():
            pass
        case ast.Name(id=name) if name in names or name in ('inf', 'nan'):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name(id='inf')):
            pass
        case (
            ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements)
        ):
            parts = elements
        case ast.Dict(keys=keys, values=values) if None not in keys:
            parts = [*filter(None, keys), *values]
        case ast.Call(func=ast.Name(id='dict'), args=args, keywords=keywords):
            parts = [*args, *(keyword.value for keyword in keywords)]
        case ast.Call(func=ast.Name(id='range' | 'slice'), args=args, keywords=[]):
            parts = args
        case ast.Call(func=ast.Name(id='set'), args=[], keywords=[]):
            pass
        case _:
            return node
    return next(filter(None, (_foreign(part, names) for part in parts)), None)
