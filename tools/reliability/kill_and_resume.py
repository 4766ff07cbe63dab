"""Kill trainings at random moments, resume them, and count what is lost.

Example:
    python tools/reliability/kill_and_resume.py --kills 20 --out report.json

For each library, a small model trains on pictures of handwritten digits by the
library's own train.py, saves a checkpoint after each short epoch and validates. It is
killed with SIGKILL again and again: at random moments, and while it writes a
checkpoint, names it in last_checkpoint, or removes the superseded ones. Each time
`--resume` must go on from the last epoch that had been saved. At the end the training
must complete.

The exit status is 1 if a finished epoch was lost or a training could not go on.
"""

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from mmghostnetv2.arguments import add_out, at_least, make_parser, run_tool
from mmghostnetv2.output import progress, require_free, written

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # after which a training that does nothing has failed
DATA = 'work_dirs/reliability/data'
# Each has a config, its part of the data, and what makes its epochs short.
LIBRARIES = {
    'mmpretrain': (
        'ghostnetv2_100_digits',
        'classification',
        {'train_dataloader.dataset.indices': 32, 'val_dataloader.dataset.indices': 8},
    ),
    'mmdet': ('yolov3_ghostnetv2_320_digits', 'detection', {}),
    'mmseg': ('fpn_ghostnetv2_digits', 'segmentation', {}),
}
MOMENTS = 'any', 'writing', 'naming', 'removing'


def options_of(library, folder, last):
    """Return the changes of the config: data, short epochs, the end of the training."""
    _, part, options = LIBRARIES[library]
    options = dict(options)
    if library == 'mmdet':
        options['model.backbone.init_cfg'] = 'None'
        options['val_evaluator.ann_file'] = (
            f'{DATA}/{part}/annotations/instances_val.json'
        )
        options['train_dataloader.batch_size'] = 4
    if library == 'mmseg':
        options['model.backbone.init_cfg'] = 'None'
        options['train_dataloader.batch_size'] = 2
        options['default_hooks.checkpoint.interval'] = 2
        options['train_cfg.val_interval'] = 2
        options['train_cfg.max_iters'] = last
    else:
        options['train_cfg.val_interval'] = 1
        options['train_cfg.max_epochs'] = last
        options['default_hooks.checkpoint.interval'] = 1
    options['default_hooks.checkpoint.max_keep_ckpts'] = 1
    options['default_hooks.checkpoint.save_best'] = 'auto'
    for split in ('train', 'val'):
        repeated = '.dataset' if (library, split) == ('mmdet', 'train') else ''
        key = f'{split}_dataloader.dataset{repeated}.data_root'
        options[key] = f'{DATA}/{part}/'
    return [f'{key}={value}' for key, value in options.items()]


def start(library, folder, last):
    """Start a training that resumes; return the process and the file of its output."""
    package = Path(importlib.util.find_spec(library).origin).parent
    script = package / '.mim' / 'tools' / 'train.py'
    config = ROOT / 'configs' / 'digits' / f'{LIBRARIES[library][0]}.py'
    log = folder / 'output.log'
    command = [sys.executable, script, config, '--work-dir', folder, '--resume']
    command += ['--cfg-options', *options_of(library, folder, last)]
    with log.open('w') as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True
        )
    return process, log


def saved(log):
    """Return the last epoch or iteration whose checkpoint was certainly written.

    mmengine says so before it writes. What it does next, it says after that.
    """
    done = re.findall(r'Saving checkpoint at (\d+) (?:epochs|iterations)\n.+', log)
    return int(done[-1]) if done else 0


def kill_at(process, folder, log, moment, rng):
    """Kill a training at a moment; return whether it was still running."""
    names = {
        'writing': '.unfinished-*.pth',
        'naming': 'last_checkpoint',
        'removing': '*.pth',
    }
    deadline = time.monotonic() + SECONDS
    while not re.search(r'Checkpoints will be saved', log.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f'the training did not start, see {log}')
        time.sleep(0.05)
    time.sleep(rng.uniform(0.5, 6))
    if moment != 'any':
        pattern = names[moment]
        before = {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}
        while process.poll() is None:
            try:
                now = {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}
            except FileNotFoundError:
                continue  # it was renamed or removed right now
            if now != before:
                break
            time.sleep(0.0005)
    running = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


def torture(library, kills, seed, folder):
    """Kill and resume a library's training; return counts of what happened."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts, finished, lost = Counter(), 0, 0
    for i in progress(range(kills), f'kills of {library}'):
        process, log = start(library, folder, 100_000)
        moment = MOMENTS[i % len(MOMENTS)]
        counts[moment] += kill_at(process, folder, log, moment, rng)
        text = log.read_text()
        lost += losses(library, text, finished)
        finished = max(finished, saved(text))
    process, log = start(library, folder, finished + 4)
    try:
        status = process.wait(SECONDS)
    finally:
        process.kill()
    lost += losses(library, log.read_text(), finished)
    left = [path.name for path in folder.glob('.unfinished-*')]
    return {
        'kills': dict(counts),
        'finished': finished,
        'lost': lost,
        'completed': status == 0,
        'left': left,
    }


def losses(library, text, finished):
    """Return how many finished epochs or iterations a resumed training repeats."""
    found = re.search(r'resumed epoch: (\d+), iter: (\d+)', text)
    if found is None:
        return finished
    unit = 2 if library == 'mmseg' else 1  # iterations or epochs
    return max(0, finished - int(found[unit]))


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    text = 'those to kill (default: all)'
    add('--libraries', nargs='+', choices=LIBRARIES, default=list(LIBRARIES), help=text)
    add('--kills', type=at_least(1), default=20, metavar='N', help='kills of each')
    add('--seed', type=at_least(0), default=0, metavar='N', help='of the moments')
    add_out(parser, 'write a report', ('.json',))
    args = parser.parse_args(argv)
    require_free([args.out] if args.out else [], args.force)

    if not (ROOT / DATA).exists():
        command = [sys.executable, 'tools/datasets/make_digits.py', '--out-dir', DATA]
        command += ['--train', '8', '--val', '4', '--cls-copies', '1']
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    report = {}
    for library in args.libraries:
        folder = ROOT / 'work_dirs' / 'reliability' / library
        report[library] = torture(library, args.kills, args.seed, folder)
    print(json.dumps(report, indent=2))
    if args.out:
        with written(args.out) as path:
            path.write_text(json.dumps(report, indent=2) + '\n')
    failed = [
        name
        for name, found in report.items()
        if found['lost'] or not found['completed'] or found['left']
    ]
    if failed:
        raise RuntimeError(
            f'trainings by {" and ".join(failed)} were harmed, see above'
        )


if __name__ == '__main__':
    run_tool(main)
