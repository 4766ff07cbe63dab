"""Checkpoints that survive a kill at any moment, and trainings that go on exactly."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader, Runner

from ..registry import FUNCTIONS, HOOKS, register

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

BACKEND = 'mmghostnetv2'


class AtomicBackend(LocalBackend):
    """mmengine's files on disk, which appear under their names when they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file beside the path, and give it its name when it is on the disk."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix='.unfinished-', suffix='.pth', delete=False
        ) as file:
            try:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


class _DelayedRemovals(LocalBackend):
    """Collects the files that mmengine removes before it writes others."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        self.paths.append(Path(filepath))

    def carry_out(self, kept: set[Path]) -> None:
        for path in self.paths:
            if path not in kept:
                path.unlink(missing_ok=True)
        self.paths.clear()


register_backend(BACKEND, AtomicBackend)


@register(FUNCTIONS)
def keep_torch_seeds(worker_id: int) -> None:
    """Leave the random numbers of a data loader's worker as torch seeds them.

    As ``worker_init_fn``. torch draws the seeds from the random state of the training,
    which :class:`SafeCheckpointHook` resumes. mmengine's own function gives a worker
    the same seed at each start, so that with ``persistent_workers=False`` all epochs
    have the same augmentations.
    """


@register(HOOKS)
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, of which a kill at any moment loses nothing.

    - A checkpoint appears under its name when it is complete. Only then are older ones
      removed, of ``max_keep_ckpts`` and ``save_best``.
    - ``--resume`` takes the newest checkpoint that can be read, if the one that
      ``last_checkpoint`` names is missing or cannot, and says so.
    - The random states of Python, numpy and torch are saved and resumed, in a single
      process. An epoch then is the same as without an interruption, bit by bit, if
      the workers of the data loader start at each epoch with torch's seeds:
      ``persistent_workers=False, worker_init_fn=dict(type='keep_torch_seeds')``, or
      ``num_workers=0``. In a training by iterations the workers may also persist.
    - A second training in the same folder is refused (not on Windows).

    Args:
        kwargs: As in mmengine's CheckpointHook; ``out_dir`` and ``backend_args`` may
            not be set, since only files of this machine are written that way.

    Raises:
        TypeError: ``out_dir`` or ``backend_args`` is given.
    """

    def __init__(self, **kwargs: Any) -> None:
        for name in ('out_dir', 'backend_args', 'file_client_args'):
            if kwargs.get(name) is not None:
                raise TypeError(
                    f'SafeCheckpointHook writes into the work_dir, and takes no {name}: '
                    "use mmengine's CheckpointHook"
                )
            kwargs.pop(name, None)
        super().__init__(backend_args=dict(backend=BACKEND), **kwargs)
        self._random_state: dict | None = None
        self._resumes = False

    def before_run(self, runner: Runner) -> None:
        """Let ``last_checkpoint`` name a file that can be read, if it will be resumed."""
        self._resumes = bool(runner.cfg.get('resume'))
        if self._resumes and not runner.cfg.get('load_from') and is_main_process():
            self._mend_last_checkpoint(runner)
        barrier()

    def _mend_last_checkpoint(self, runner: Runner) -> None:
        folder = Path(runner.work_dir)
        pointer = folder / 'last_checkpoint'
        named = pointer.read_text().strip() if pointer.exists() else ''
        found = sorted(
            folder.glob(self.filename_tmpl.format('*')), key=os.path.getmtime
        )
        for path in filter(None, [named, *map(str, reversed(found))]):
            try:
                CheckpointLoader.load_checkpoint(path, 'cpu')
            except Exception as error:
                runner.logger.warning('not resumed: %s', error)
                continue
            if path != named:
                runner.logger.warning(
                    '%s names %s; resuming the newest checkpoint that can be read, %s',
                    pointer, named or 'no file', path,
                )  # fmt: skip
                AtomicBackend().put(path.encode(), pointer)
            return
        if named:
            raise RuntimeError(
                f'no checkpoint in {folder} can be read, the reasons are above: remove '
                'the folder to start anew'
            )

    def before_train(self, runner: Runner) -> None:
        """Keep other trainings out of the folder, and tidy what a killed one left."""
        super().before_train(runner)
        self.file_backend = self._removals = _DelayedRemovals()
        if is_main_process():
            self._lock(Path(runner.work_dir))
            for path in Path(runner.work_dir).glob('.unfinished-*'):
                path.unlink()

    def _lock(self, folder: Path) -> None:
        """Lock the folder until the process ends, however it ends.

        Raises:
            RuntimeError: Another process trains there.
        """
        if fcntl is None:
            return
        self._lock_file = (folder / '.training.lock').open('a+')
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.seek(0)
            raise RuntimeError(
                f'a training already runs in {folder}: {self._lock_file.read()}. Wait '
                'for its end, stop it, or choose another --work-dir'
            ) from error
        self._lock_file.truncate(0)
        self._lock_file.write(f'process {os.getpid()} on {socket.gethostname()}')
        self._lock_file.flush()

    def before_train_epoch(self, runner: Runner) -> None:
        """Go on with the random numbers of the resumed training."""
        if self._random_state is not None:
            _set_random_state(self._random_state)
            self._random_state = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the random state."""
        if get_world_size() == 1:
            checkpoint['random_state'] = _random_state()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the random state, if the training is resumed."""
        if self._resumes and get_world_size() == 1:
            self._random_state = checkpoint.get('random_state')

    def after_train_epoch(self, runner: Runner) -> None:
        """Save as mmengine does, and then remove what is superseded."""
        super().after_train_epoch(runner)
        self._removals.carry_out(self._kept())

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save as mmengine does, and then remove what is superseded."""
        super().after_train_iter(runner, *args, **kwargs)
        self._removals.carry_out(self._kept())

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best as mmengine does, and then remove what is superseded."""
        super().after_val_epoch(runner, metrics)
        self._removals.carry_out(self._kept())
