"""Checkpoints that a kill at any moment does not harm, and trainings that go on."""

import os
import random
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from ..checkpoint import require_training
from ..registry import FUNCTIONS, HOOKS, register
from ..safe_loading import require_plain_config

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

BACKEND = 'mmghostnetv2'
UNFINISHED = '.unfinished-'


class AtomicBackend(LocalBackend):
    """mmengine's files on disk, which appear under their names when complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file beside the path, and give it its name when it is on the disk."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(UNFINISHED + path.name)
        try:
            with unfinished.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text as :meth:`put` does."""
        self.put(obj.encode(encoding), filepath)


register_backend(BACKEND, AtomicBackend)


class _DelayedRemovals(LocalBackend):
    """Collects the files that mmengine removes before it writes others."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        self.paths.append(Path(filepath))

    def carry_out(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.paths.clear()


@register(FUNCTIONS)
def keep_torch_seeds(worker_id: int) -> None:
    """Leave the random numbers of a data loader's worker as torch seeds them.

    A ``worker_init_fn``. torch draws the seeds from the random state of the training,
    which :class:`SafeCheckpointHook` resumes. mmengine's own function gives a worker
    the same seed at each start, so that with ``persistent_workers=False`` each epoch
    has the augmentations of the first one.
    """


@register(HOOKS)
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, where a kill at any moment loses no finished epoch.

    - A checkpoint appears under its name when it is complete. Only then are the older
      ones removed, those beyond ``max_keep_ckpts`` and the previous best.
    - ``--resume`` takes the newest checkpoint that can be read, if ``last_checkpoint``
      names none or an older one, and says so.
    - The random states of Python, numpy and torch are resumed, in a single process.
      The next epoch is then bit by bit what it would have been, if the workers of the
      data loader start with torch's seeds at each epoch
      (``persistent_workers=False, worker_init_fn=dict(type='keep_torch_seeds')``), or
      if there are none. In a training by iterations it is so with workers and a seed,
      ``randomness=dict(seed=0)``.
    - A second training in the same folder is refused (not on Windows).
    - A training whose config could not be read from its checkpoints is refused.

    Args:
        kwargs: As in mmengine's CheckpointHook, without ``out_dir``, ``backend_args``
            and ``file_client_args``, because checkpoints are files in the ``work_dir``.

    Raises:
        TypeError: One of these three is given.
    """

    def __init__(self, **kwargs: Any) -> None:
        others = {'out_dir', 'backend_args', 'file_client_args'}
        if unknown := sorted(others & kwargs.keys()):
            raise TypeError(
                f'SafeCheckpointHook takes no {unknown[0]}: its checkpoints are files '
                'in the work_dir'
            )
        super().__init__(**kwargs, backend_args=dict(backend=BACKEND))
        self._random_state: dict[str, Any] | None = None
        self._resumes = False

    # ---- resuming

    def before_run(self, runner: Runner) -> None:
        """Let ``last_checkpoint`` name the checkpoint that will be resumed.

        Raises:
            RuntimeError: There are checkpoints, but none can be read.
        """
        self._resumes = bool(runner.cfg.get('resume'))
        if self._resumes and not runner.cfg.get('load_from') and is_main_process():
            self._mend_last_checkpoint(runner)
        barrier()

    def _mend_last_checkpoint(self, runner: Runner) -> None:
        folder = Path(runner.work_dir)
        pointer = folder / 'last_checkpoint'
        said = pointer.read_text().strip() if pointer.exists() else ''
        named = Path(said)
        if not named.is_file():
            named = folder / named.name  # the folder was moved
        found = {*folder.glob(re.sub(r'{.*?}', '*', self.filename_tmpl))}
        if named.is_file():
            found.add(named)
        # Not by their numbers: there may be files of an earlier, longer training.
        newest_first = sorted(found, key=os.path.getmtime, reverse=True)
        if named in found:
            # A kill may have come after a file was written and before it was named. A
            # later date alone does not tell, because a copied folder has other dates.
            later = newest_first[: newest_first.index(named)]
            later = [path for path in later if _step(path) > _step(named)]
            others = [x for x in newest_first if x != named and x not in later]
            newest_first = [*later, named, *others]
        for path in newest_first:
            try:
                CheckpointLoader.load_checkpoint(str(path), 'cpu')
            except Exception as error:
                runner.logger.warning(f'cannot resume: {error}')
                continue
            if str(path) != said:
                runner.logger.warning(
                    f'{pointer} does not name the newest checkpoint that can be read, '
                    f'{path}, which is resumed'
                )
                AtomicBackend().put_text(str(path), pointer)
            return
        if found:
            raise RuntimeError(
                f'none of the checkpoints in {folder} can be read, the reasons are '
                'above: move them away to start anew'
            )
        pointer.unlink(missing_ok=True)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the random state and the sampler's seed, if the training is resumed.

        Raises:
            RuntimeError: The checkpoint is not that of a training.
        """
        if self._resumes:
            named = runner.cfg.get('load_from')
            require_training(
                checkpoint, named or find_latest_checkpoint(runner.work_dir)
            )
        if self._resumes and get_world_size() == 1:
            self._random_state = checkpoint.get('random_state')
            seed = checkpoint['meta'].get('seed')
            if seed is not None:
                runner.train_dataloader.sampler.seed = seed

    def before_train_epoch(self, runner: Runner) -> None:
        """Go on with the random numbers of the saved state."""
        self._go_on()

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Go on with the random numbers of the saved state, after a validation."""
        self._go_on()

    def _go_on(self) -> None:
        if self._random_state is not None:
            _set_random_state(self._random_state)
            self._random_state = None

    # ---- saving

    def before_train(self, runner: Runner) -> None:
        """Keep other trainings out of the folder, and tidy what a killed one left.

        Raises:
            RuntimeError: Another process trains there.
            ValueError: The config has parts that are no plain values.
        """
        super().before_train(runner)
        self.file_backend = self._removals = _DelayedRemovals()
        if is_main_process():
            try:
                require_plain_config(runner.cfg.pretty_text)
            except ValueError as error:
                raise ValueError(
                    f'checkpoints of this training could not be loaded again: {error}'
                ) from error
            self._lock(runner)
            for path in Path(runner.work_dir).glob(f'{UNFINISHED}*'):
                path.unlink()

    def _lock(self, runner: Runner) -> None:
        """Lock the folder until the process ends, however it ends."""
        if fcntl is None:
            return
        folder = Path(runner.work_dir)
        self._lock_file = (folder / '.training.lock').open('a+')
        try:
            fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._lock_file.seek(0)
            raise RuntimeError(
                f'another training runs in {folder}, {self._lock_file.read()}: wait '
                'for its end, stop it, or choose another --work-dir'
            ) from error
        except OSError as error:  # some network file systems have no locks
            runner.logger.warning(
                f'{folder} cannot be locked, so a second training there would not be '
                f'noticed: {error}'
            )
            return
        self._lock_file.truncate(0)
        self._lock_file.write(f'process {os.getpid()} on {socket.gethostname()}')
        self._lock_file.flush()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the random state, the same one until the training goes on.

        A validation that follows draws random numbers, too. A resumed training does
        not repeat it.
        """
        if get_world_size() == 1:
            self._random_state = self._random_state or _get_random_state()
            checkpoint['random_state'] = self._random_state

    def after_train_epoch(self, runner: Runner) -> None:
        """Save, and then remove what is superseded."""
        super().after_train_epoch(runner)
        self._removals.carry_out()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save, and then remove what is superseded."""
        super().after_train_iter(runner, *args, **kwargs)
        self._removals.carry_out()

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best, and then remove what is superseded."""
        super().after_val_epoch(runner, metrics)
        if self.save_best:
            self._removals.carry_out()


def _step(path: Path) -> int:
    """Return the number in the name of a checkpoint."""
    return int((re.findall(r'\d+', path.stem) or ['0'])[-1])


def _get_random_state() -> dict[str, Any]:
    """Return the states of all generators, in types that are loaded weights-only."""
    numbers: Any = np.random.get_state()
    return {
        'python': random.getstate(),
        'numpy': [numbers[0], numbers[1].tolist(), *numbers[2:]],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state['python'])
    np.random.set_state(tuple(state['numpy']))
    # mmengine loads a checkpoint to the GPU when it resumes.
    torch.set_rng_state(state['torch'].cpu())
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in state['cuda']])
