"""A hook that test_two_processes.py adds to the processes that train."""

import json
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RankLosses(Hook):
    """Write the images and losses of every iteration, each process to its own file."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        line = {
            'images': [sample.img_path for sample in data_batch['data_samples']],
            'losses': {k: v.item() for k, v in outputs.items() if 'loss' in k},
        }
        with Path(runner.work_dir, f'rank{runner.rank}.jsonl').open('a') as file:
            file.write(json.dumps(line) + '\n')
