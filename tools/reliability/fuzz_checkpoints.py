"""Load thousands of hostile checkpoints, and count what they achieve.

Example:
    python tools/reliability/fuzz_checkpoints.py --files 20000 --out report.json

Half of the files are programs of random pickle opcodes over the names that weights-only
loading allows, with arguments that fit them or do not. The other half are checkpoints
of a training with random bytes changed, in the pickle or anywhere. They are loaded by
mmengine's CheckpointLoader in processes of their own, which are limited in memory and
time.

The exit status is 1 if a file executed anything, crashed or hung a process, or made it
allocate more than twice the file's size beyond what torch itself allocates.
"""

import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import tracemalloc
import warnings
import zipfile
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import CheckpointLoader

import mmghostnetv2  # noqa: F401 - registers the loaders
from mmghostnetv2.arguments import add_out, at_least, make_parser, run_tool
from mmghostnetv2.output import progress, require_free, written
from mmghostnetv2.safe_loading import training_objects

# A forked process has imported torch already.
FORKS = multiprocessing.get_context('fork')
CHUNK = 250  # files a process loads
SECONDS = 60  # before a chunk counts as hung
MEMORY = 512 << 20  # address space beyond what the imports take, in bytes
SLACK = 1 << 16  # of error messages and caches, in bytes
# Names that torch allows by itself, beside those of this package
TORCH_NAMES = [
    'collections OrderedDict',
    'torch._utils _rebuild_tensor_v2',
    'torch._utils _rebuild_parameter',
    'torch FloatStorage',
    'torch float32',
    'torch Size',
    'builtins set',
]
# What a checkpoint must not cause. Python announces it before it happens.
EVENTS = (
    'os.',
    'subprocess.',
    'socket.',
    'ctypes.',
    'shutil.',
    'exec',
    'import',
    'marshal.loads',
)


def own_names():
    """Return the names of this package's allow-list, as the GLOBAL opcode has them."""
    names = []
    for entry in training_objects():
        module, _, name = entry[1].rpartition('.')
        names.append(f'{module} {name}')
    return names


def random_value(rng):
    """Return the opcodes of a constant."""
    kind = rng.randrange(8)
    if kind == 0:
        return pickle.BININT + struct.pack('<i', rng.choice([0, 1, -1, 2**31 - 1, 999]))
    if kind == 1:
        return rng.choice([pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE])
    if kind == 2:
        codes = [
            'f4',
            'f8',
            'O',
            'O8',
            'V8',
            'i8',
            '<i8',
            '>f8',
            'U9',
            'S',
            'M8[s]',
            'min',
            'mean',
            '__init__',
            '|b1',
        ]
        text = rng.choice([*codes, '<', '|', '', 'cpu', '0', 'x' * 50]).encode()
        return pickle.BINUNICODE + struct.pack('<I', len(text)) + text
    if kind == 3:
        data = rng.randbytes(rng.choice([0, 1, 8, 64]))
        return pickle.SHORT_BINBYTES + bytes([len(data)]) + data
    if kind == 4:
        return pickle.BINFLOAT + struct.pack('>d', rng.choice([0.0, 1e308, -1.5]))
    if kind == 5:
        return rng.choice([pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT])
    if kind == 6:
        # one byte of mark, then LONG1 of up to 8 bytes
        return pickle.LONG1 + b'\x08' + rng.randbytes(8)
    size = rng.choice([0, 4, 1 << 40])
    return (
        pickle.MARK
        + b'X\x07\x00\x00\x00storage'
        + b'ctorch\nFloatStorage\n'
        + b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpu'
        + pickle.LONG1
        + b'\x08'
        + struct.pack('<q', size)
        + pickle.TUPLE
        + pickle.BINPERSID
    )


def random_program(rng, names):
    """Return a pickle of random opcodes that mostly keep the stack in order."""
    out, depth, memo = [b'\x80\x02'], 0, 0
    for _ in range(rng.randrange(3, 60)):
        choice = rng.random()
        if choice < 0.35 or depth == 0:
            out.append(random_value(rng))
            depth += 1
        elif choice < 0.55:
            module, name = rng.choice(names).split()
            out.append(f'c{module}\n{name}\n'.encode())
            depth += 1
        elif choice < 0.62 and depth >= 2:
            two = [pickle.TUPLE2, pickle.REDUCE, pickle.BUILD, pickle.NEWOBJ]
            out.append(rng.choice(two))
            depth -= 1
        elif choice < 0.72:
            out.append(pickle.TUPLE1)
        elif choice < 0.78 and depth >= 3:
            out.append(rng.choice([pickle.TUPLE3, pickle.SETITEM]))
            depth -= 2
        elif choice < 0.9:
            # an object of an allowed name, with some arguments, and perhaps a state
            module, name = rng.choice(names).split()
            call = rng.choice([pickle.REDUCE, pickle.NEWOBJ])
            values = [random_value(rng) for _ in range(rng.randrange(4))]
            out += [f'c{module}\n{name}\n'.encode(), pickle.MARK, *values]
            out += [pickle.TUPLE, call]
            if rng.random() < 0.5:
                states = [random_value(rng) for _ in range(rng.choice([1, 5, 8]))]
                out += [pickle.MARK, *states, pickle.TUPLE, pickle.BUILD]
            depth += 1
        elif choice < 0.95:
            out.append(pickle.BINPUT + bytes([memo % 256]))
            memo += 1
        elif memo:
            out.append(pickle.BINGET + bytes([rng.randrange(memo) % 256]))
            depth += 1
    return b''.join(out) + pickle.STOP


def archive(program):
    """Return a file as torch saves it, with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as file:
        file.writestr('archive/data.pkl', program)
        file.writestr('archive/byteorder', 'little')
        file.writestr('archive/data/0', bytes(16))
        file.writestr('archive/version', '3\n')
    return buffer.getvalue()


def training_checkpoint():
    """Return a checkpoint with all that mmengine saves, and its pickle."""
    buffer = io.BytesIO()
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'state_dict': {'weight': torch.ones(2, 2), 'count': torch.tensor(3)},
        'meta': {'epoch': 1, 'cfg': 'a = dict(b=[1, 2])', 'seed': np.int64(3)},
        'message_hub': {'log_scalars': {'loss': history}},
        'values': np.arange(6).reshape(2, 3),
    }
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as file:
        name = next(x for x in file.namelist() if x.endswith('data.pkl'))
        return buffer.getvalue(), file.read(name)


def mutate(data, rng):
    """Change, remove, repeat or insert some bytes."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        i = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and i < len(data):
            data[i] = rng.randrange(256)
        elif kind == 1:
            del data[i : i + rng.randrange(1, 9)]
        elif kind == 2:
            data[i:i] = data[i : i + rng.randrange(1, 30)]
        else:
            data[i:i] = rng.randbytes(rng.randrange(1, 5))
        if not data:
            break
    return bytes(data)


def make_file(seed, names, sample):
    """Return the content of one hostile file."""
    rng = random.Random(seed)
    whole, program = sample
    if seed % 2:
        return archive(random_program(rng, names))
    if rng.random() < 0.3:
        return mutate(whole, rng)
    return archive(mutate(program, rng))


def load(path, load_function):
    """Load a file; return what happened, and the most memory that it took."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        load_function(path)
        outcome = 'loaded'
    except (MemoryError, torch.OutOfMemoryError):
        outcome = 'memory'
    except Exception as error:
        outcome = 'memory' if 'allocate memory' in str(error) else 'refused'
    return outcome, tracemalloc.get_traced_memory()[1] - before


def load_chunk(seeds, folder, connection):
    """Load the files of these seeds, and send what happened to each."""
    names = own_names() + TORCH_NAMES
    sample = training_checkpoint()
    path = str(Path(folder, f'{os.getpid()}.pth'))
    MMLogger.get_current_instance().setLevel('ERROR')  # it logs each file
    # To print a warning, Python reads the source file that it names into memory.
    warnings.simplefilter('ignore')
    watched, seen = [False], []

    def audit(event, args):
        # torch allows _codecs.encode, which looks for codecs in this package alone.
        is_codec = event == 'import' and args[0].startswith('encodings.')
        if watched[0] and event.startswith(EVENTS) and not is_codec:
            seen.append(f'{event} {args}'[:200])

    def ours(path):
        CheckpointLoader.load_checkpoint(path, 'cpu')

    def torchs(path):
        with torch.serialization.safe_globals([]):
            torch.load(path, 'cpu', weights_only=True)

    # What torch imports at a first load or error is not the file's doing.
    import_module('torch._subclasses.schema_check_mode')
    Path(path).write_bytes(sample[0])
    ours(path)
    for program in (b'', b'\x80\x02N.', random_program(random.Random(0), names)):
        Path(path).write_bytes(archive(program))
        load(path, ours)
    sys.addaudithook(audit)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.serialization.clear_safe_globals()
    tracemalloc.start()
    for seed in seeds:
        connection.send((seed, 'started', 0, ''))
        content = make_file(seed, names, sample)
        Path(path).write_bytes(content)
        seen.clear()
        watched[0] = True
        outcome, peak = load(path, ours)
        watched[0] = False
        _, plain = load(path, torchs)
        excess = peak - max(plain, 0) - 2 * len(content) - SLACK
        if seen:
            outcome = 'executed'
        elif excess > 0 and outcome != 'memory':
            outcome = 'too much memory'
        connection.send((seed, outcome, excess, '; '.join(seen)))
    os.unlink(path)
    connection.close()


def run_chunk(seeds, folder):
    """Load files in a process; a crash or a hang ends the process at that file."""
    results = {}
    seeds = list(seeds)
    while seeds:
        receive, send = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=load_chunk, args=(seeds, folder, send))
        process.start()
        send.close()
        running, ended = None, False
        try:
            while receive.poll(SECONDS):
                seed, outcome, excess, text = receive.recv()
                running = None if outcome != 'started' else seed
                if outcome != 'started':
                    results[seed] = outcome, excess, text
        except EOFError:
            ended = True
        process.kill()
        process.join()
        if running is not None:
            status = f'exit status {process.exitcode}' if ended else f'{SECONDS} s'
            results[running] = 'crashed' if ended else 'hung', 0, status
        elif not set(seeds) <= results.keys():
            raise RuntimeError(f'the process for the files from {seeds[0]} on failed')
        seeds = [seed for seed in seeds if seed not in results]
    return results


def main(argv=None):
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('--files', type=at_least(1), default=20000, metavar='N', help='number of files')
    add('--seed', type=at_least(0), default=0, metavar='N', help='number of the first')
    add_out(parser, 'write a report', ('.json',))
    args = parser.parse_args(argv)
    require_free([args.out] if args.out else [], args.force)

    seeds = range(args.seed, args.seed + args.files)
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for chunk in progress(chunks, 'files'):
            results |= run_chunk(chunk, folder)
    counts = Counter(outcome for outcome, *_ in results.values())
    bad = {
        seed: f'{outcome} {text}'.strip()
        for seed, (outcome, _, text) in results.items()
        if outcome not in ('loaded', 'refused')
    }
    report = {
        'files': len(results),
        'first': args.seed,
        'outcomes': dict(sorted(counts.items())),
        'bad': bad,
        'torch': torch.__version__,
    }
    print(json.dumps(report, indent=2))
    if args.out:
        with written(args.out) as path:
            path.write_text(json.dumps(report, indent=2) + '\n')
    if bad:
        raise RuntimeError(f'{len(bad)} of {len(results)} files did harm, see above')


if __name__ == '__main__':
    run_tool(main)
